package ingest

import (
	"slices"
	"strings"
)

// field is a part of the body that can be wrong. Errors name fields in this order.
type field uint8

const (
	fieldPayload field = iota
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
	fieldClientMsgNo
	fieldStreamNo
	fieldTagKey
	fieldExpire
	fieldSubscribers
	fieldUIDs
	fieldTempSubscriber
	fieldReset
	fieldLarge
	fieldBan
	fieldDisband
	fieldSendBan
	fieldAllowStranger
	fieldsCount
)

// The flags, in the order of fields.headerFlags and fields.topFlags.
const (
	flagNoPersist = iota
	flagRedDot
	flagSyncOnce
)

func (f field) String() string {
	return [fieldsCount]string{
		"payload", "from_uid", "sender_uid", "channel_id", "channel_type",
		"header", "header.no_persist", "header.red_dot", "header.sync_once", "no_persist", "red_dot", "sync_once",
		"client_msg_no", "stream_no", "tag_key", "expire", "subscribers",
		"uids", "temp_subscriber", "reset", "large", "ban", "disband", "send_ban", "allow_stranger",
	}[f]
}

// reason is WuKongIM's code for a bad field, if it has one.
func (f field) reason() int {
	switch f {
	case fieldPayload:
		return reasonPayloadDecode
	case fieldChannelID:
		return reasonChannelID
	case fieldChannelType:
		return reasonChannelType
	default:
		return reasonNone
	}
}

// fieldSet is a set of fields, a bit each.
type fieldSet uint32

func (s fieldSet) has(f field) bool { return s&(1<<f) != 0 }
func (s *fieldSet) add(f field)     { *s |= 1 << f }
func (s *fieldSet) remove(f field)  { *s &^= 1 << f }

// issue is one thing that is wrong with a field: "must be an integer", to be read
// behind the field's name.
type issue struct {
	field field
	what  string
	// large marks an issue that is 413 where it is the only one.
	large bool
}

// bad notes what is wrong with a field. The first note on a field stands.
func (r *request) bad(f field, what string) {
	r.note(issue{field: f, what: what})
}

func (r *request) note(i issue) {
	if !r.isBad(i.field) {
		r.issues = append(r.issues, i)
	}
}

func (r *request) isBad(f field) bool {
	return slices.ContainsFunc(r.issues, func(i issue) bool { return i.field == f })
}

// problem makes one error of all issues; it names every bad field.
func (r *request) problem() problem {
	if len(r.issues) == 0 {
		return problem{}
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
	p := problem{outcome: outcomeInvalidRequest, msg: msg.String(), field: names.String(), reason: first.field.reason()}
	if len(r.issues) == 1 && first.large {
		p.outcome = outcomeTooLarge
	}
	return p
}
