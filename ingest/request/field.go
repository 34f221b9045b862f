package request

import (
	"slices"
	"strings"

	"github.com/sendhouse/sendhouse/ingest/outcome"
)

// Field is a part of the body that can be invalid. Errors name fields in this order.
type Field uint8

// The fields, in the order of a request.
const (
	fieldPayload Field = iota
	fieldFromUID
	fieldSenderUID
	fieldChannelID
	fieldChannelType
	fieldHeader
	fieldHeaderNoPersist
	fieldHeaderRedDot
	fieldHeaderSyncOnce
	fieldNoPersist
	fieldRedDot
	fieldSyncOnce
	FieldClientMsgNo
	fieldStreamNo
	fieldTagKey
	fieldExpire
	FieldSubscribers
	FieldUIDs
	fieldTempSubscriber
	fieldReset
	fieldLarge
	fieldBan
	fieldDisband
	fieldSendBan
	fieldAllowStranger
	FieldsCount
)

// The flags, in the order of fields.headerFlags and fields.topFlags.
const (
	flagNoPersist = iota
	flagRedDot
	flagSyncOnce
)

// String returns the field's name in requests and errors.
func (f Field) String() string {
	return [FieldsCount]string{
		"payload", "from_uid", "sender_uid", "channel_id", "channel_type",
		"header", "header.no_persist", "header.red_dot", "header.sync_once", "no_persist", "red_dot", "sync_once",
		"client_msg_no", "stream_no", "tag_key", "expire", "subscribers",
		"uids", "temp_subscriber", "reset", "large", "ban", "disband", "send_ban", "allow_stranger",
	}[f]
}

// fieldOf returns the field of a send that a key of the top-level object names, or FieldsCount. A switch is faster than a map.
func fieldOf(key []byte) Field {
	switch string(key) {
	case "payload":
		return fieldPayload
	case "from_uid":
		return fieldFromUID
	case "sender_uid":
		return fieldSenderUID
	case "channel_id":
		return fieldChannelID
	case "channel_type":
		return fieldChannelType
	case "header":
		return fieldHeader
	case "no_persist":
		return fieldNoPersist
	case "red_dot":
		return fieldRedDot
	case "sync_once":
		return fieldSyncOnce
	case "client_msg_no":
		return FieldClientMsgNo
	case "stream_no":
		return fieldStreamNo
	case "tag_key":
		return fieldTagKey
	case "expire":
		return fieldExpire
	case "subscribers":
		return FieldSubscribers
	default:
		return FieldsCount
	}
}

// fields is a decoded body. An absent or null field is zero, and not in given.
type fields struct {
	given       fieldSet
	fromUID     string
	senderUID   string
	channelID   string
	clientMsgNo string
	streamNo    string
	tagKey      string
	channelType int64
	expire      int64
	headerFlags [3]int64 // no_persist, red_dot, sync_once
	topFlags    [3]int64
	payload     []byte
	subscribers []string
}

// text returns where the value of a field that is a string belongs, or nil for other fields.
func (f *fields) text(field Field) *string {
	switch field {
	case fieldFromUID:
		return &f.fromUID
	case fieldSenderUID:
		return &f.senderUID
	case fieldChannelID:
		return &f.channelID
	case FieldClientMsgNo:
		return &f.clientMsgNo
	case fieldStreamNo:
		return &f.streamNo
	case fieldTagKey:
		return &f.tagKey
	default:
		return nil
	}
}

// integer returns where the value of a field that is an integer belongs, or nil for other fields.
func (f *fields) integer(field Field) *int64 {
	switch field {
	case fieldChannelType:
		return &f.channelType
	case fieldExpire:
		return &f.expire
	case fieldNoPersist, fieldRedDot, fieldSyncOnce:
		return &f.topFlags[field-fieldNoPersist]
	default:
		return nil
	}
}

// reason returns WuKongIM's code for a bad field, or 0.
func (f Field) reason() int {
	switch f {
	case fieldPayload:
		return outcome.ReasonPayloadDecode
	case fieldChannelID:
		return outcome.ReasonChannelID
	case fieldChannelType:
		return outcome.ReasonChannelType
	default:
		return outcome.ReasonNone
	}
}

// fieldSet is a set of fields, one bit each.
type fieldSet uint32

func (s fieldSet) has(f Field) bool { return s&(1<<f) != 0 }
func (s *fieldSet) add(f Field)     { *s |= 1 << f }
func (s *fieldSet) remove(f Field)  { *s &^= 1 << f }

// issue is one thing that is wrong with a field; what completes a sentence that starts with the field's name, such as
// "must be an integer".
type issue struct {
	field Field
	what  string
	// large marks an issue that is answered 413 if it is the only one.
	large bool
}

// bad records what is wrong with a field. The first issue of a field is kept.
func (r *Request) bad(f Field, what string) {
	r.note(issue{field: f, what: what})
}

func (r *Request) note(i issue) {
	if !r.isBad(i.field) {
		r.issues = append(r.issues, i)
	}
}

func (r *Request) isBad(f Field) bool {
	return slices.ContainsFunc(r.issues, func(i issue) bool { return i.field == f })
}

// problem combines all issues in one error that names every bad field.
func (r *Request) problem() outcome.Problem {
	if len(r.issues) == 0 {
		return outcome.Problem{}
	}
	slices.SortStableFunc(r.issues, func(a, b issue) int { return int(a.field) - int(b.field) })
	var names, msg strings.Builder
	for i, issue := range r.issues {
		if i > 0 {
			names.WriteByte(',')
			msg.WriteString("; ")
		}
		names.WriteString(issue.field.String())
		msg.WriteString(issue.field.String() + " " + issue.what)
	}
	first := r.issues[0]
	p := outcome.Problem{Outcome: outcome.InvalidRequest, Msg: msg.String(), Field: names.String(), Reason: first.field.reason()}
	if len(r.issues) == 1 && first.large {
		p.Outcome = outcome.TooLarge
	}
	return p
}
