package request

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// Issues that several fields share.
const (
	isRequired = "is required"
	isFlag     = "must be 0 or 1"
)

// Validate builds r.send from r.fields, or records everything that is wrong with them. The send's strings alias the
// request.
//
// from_uid takes precedence over sender_uid, and a flag in header over the same flag at top level.
func (r *Request) Validate(payloadBytesMax int) outcome.Problem {
	f, s := &r.fields, &r.Send
	r.checkPayload(payloadBytesMax)
	s.NoPersist = r.flag(flagNoPersist)
	s.RedDot = r.flag(flagRedDot)
	s.SyncOnce = r.flag(flagSyncOnce)
	r.badIf(FieldClientMsgNo, message.KeyRule(f.clientMsgNo))
	r.badIf(fieldStreamNo, message.KeyRule(f.streamNo))
	r.badIf(fieldTagKey, message.KeyRule(f.tagKey))
	if f.expire < 0 || f.expire > math.MaxUint32 {
		r.bad(fieldExpire, "must be 0 to 4294967295 seconds")
	}
	r.checkSubscribers(s.SyncOnce)
	from := r.checkSender()
	channelID, channelType := r.checkChannel(from)
	if len(r.issues) > 0 {
		return r.problem()
	}

	canonical, err := message.CanonicalChannel(from, channelID, channelType, s.SyncOnce)
	if err != nil { // cannot happen: checkChannel has checked that the sender is one side
		return outcome.Problem{Outcome: outcome.Internal}
	}
	if f.clientMsgNo == "" {
		id, err := uuid.NewV7()
		if err != nil { // the system's random source failed
			return outcome.Problem{Outcome: outcome.Internal}
		}
		f.clientMsgNo, r.Generated = id.String(), true
	}
	s.ChannelId, s.ChannelType = canonical, uint32(channelType)
	s.FromUid, s.ClientMsgNo = from, f.clientMsgNo
	s.StreamNo, s.TagKey = f.streamNo, f.tagKey
	s.Expire = uint32(f.expire)
	s.Payload = f.payload
	if len(f.subscribers) > 0 {
		s.Subscribers = f.subscribers
	}
	return outcome.Problem{}
}

// resetSend clears s. The generated Reset also touches the message's reflection state, which costs more than everything
// else together.
func resetSend(s *message.Send) {
	s.ChannelId, s.ChannelType, s.FromUid, s.ClientMsgNo = "", 0, "", ""
	s.NoPersist, s.RedDot, s.SyncOnce = false, false, false
	s.StreamNo, s.TagKey, s.Expire, s.Subscribers, s.Payload = "", "", 0, nil, nil
}

func (r *Request) checkPayload(bytesMax int) {
	switch n := len(r.fields.payload); {
	case !r.fields.given.has(fieldPayload):
		r.bad(fieldPayload, isRequired)
	case n == 0:
		r.bad(fieldPayload, "must not be empty")
	case n > bytesMax:
		r.note(issue{field: fieldPayload, large: true,
			what: fmt.Sprintf("is %d bytes; at most %s are allowed", n, config.ByteSize(bytesMax))})
	}
}

// flag returns the value of a flag.
func (r *Request) flag(flag int) bool {
	f := &r.fields
	inHeader, atTop := fieldHeaderNoPersist+Field(flag), fieldNoPersist+Field(flag)
	if v := f.headerFlags[flag]; v != 0 && v != 1 {
		r.bad(inHeader, isFlag)
	}
	if v := f.topFlags[flag]; v != 0 && v != 1 {
		r.bad(atTop, isFlag)
	}
	if f.given.has(inHeader) {
		return f.headerFlags[flag] == 1
	}
	return f.topFlags[flag] == 1
}

// badIf records the rule that a field breaks, unless it is "".
func (r *Request) badIf(f Field, rule string) {
	if rule != "" {
		r.bad(f, rule)
	}
}

// checkUID records the rule that a uid of a list breaks, if any.
func (r *Request) checkUID(list Field, uid string) {
	if rule := message.UIDRule(uid, 0); rule != "" {
		r.bad(list, "must be uids: one "+rule)
	}
}

// checkSender selects and checks the sender's uid.
func (r *Request) checkSender() string {
	where, uid := fieldFromUID, r.fields.fromUID
	if uid == "" && r.fields.given.has(fieldSenderUID) && !r.isBad(fieldFromUID) {
		where, uid = fieldSenderUID, r.fields.senderUID
	}
	switch {
	case uid != "":
		r.badIf(where, message.UIDRule(uid, r.channelType()))
	case !r.isBad(fieldSenderUID): // one issue is enough
		r.bad(fieldFromUID, isRequired)
	}
	return uid
}

// channelType returns the channel type in the fields, or 0 if it is invalid.
func (r *Request) channelType() message.ChannelType {
	if n := r.fields.channelType; n < 0 || n > math.MaxUint8 || !message.ChannelType(n).Valid() {
		return 0
	}
	return message.ChannelType(r.fields.channelType)
}

// checkChannel checks the channel, or names the temporary channel if the request has receivers instead of one. Clients in typed languages send
// the zero value of a field that they leave out, so beside receivers a channel_type of 0 counts as absent, as an empty channel_id does.
func (r *Request) checkChannel(from string) (string, message.ChannelType) {
	f := &r.fields
	channelType := r.channelType()
	temporary := f.channelID == "" && len(f.subscribers) > 0 && !r.isBad(fieldChannelID)
	switch {
	case channelType.Valid():
	case temporary && f.channelType == 0: // and it is not of a wrong type, which has been recorded
	case f.given.has(fieldChannelType):
		r.bad(fieldChannelType, message.ChannelTypeRule)
	default:
		r.bad(fieldChannelType, isRequired)
	}
	if temporary {
		if len(r.issues) > 0 {
			return "", 0 // no name is needed
		}
		return message.TemporaryChannel(f.subscribers), message.ChannelTemporary
	}
	rule := message.ChannelIDRule(f.channelID, channelType)
	if left, right, composed := strings.Cut(f.channelID, "@"); rule == "" && composed && from != "" && from != left && from != right {
		rule = "names a person channel that the sender is no side of" // only a person channel can have a composed name
	}
	r.badIf(fieldChannelID, rule)
	return f.channelID, channelType
}

// checkSubscribers brings the receivers into canonical form: sorted by bytes, without empty ones and duplicates. So the
// same set in another order is the same send.
func (r *Request) checkSubscribers(syncOnce bool) {
	f := &r.fields
	if len(f.subscribers) == 0 {
		return
	}
	for _, uid := range f.subscribers {
		if uid != "" {
			r.checkUID(FieldSubscribers, uid)
		}
	}
	f.subscribers = message.Receivers(f.subscribers)
	if len(f.subscribers) > 0 && !syncOnce && !r.isBad(fieldHeaderSyncOnce) && !r.isBad(fieldSyncOnce) {
		r.bad(FieldSubscribers, "is only for commands: header.sync_once=1")
	}
}

// TakeReceivers removes the receivers from the request and returns them sorted, without empty ones and duplicates.
func (r *Request) TakeReceivers() []string {
	f := &r.fields
	uids := message.Receivers(slices.Clone(f.subscribers))
	f.subscribers = f.subscribers[:0]
	if len(uids) == 0 {
		r.bad(FieldSubscribers, isRequired)
	}
	return uids
}

// ValidateBatch checks what all receivers have in common: everything but the channel.
func (r *Request) ValidateBatch(payloadBytesMax int) outcome.Problem {
	f := &r.fields
	f.channelType = int64(message.ChannelPerson)
	// sendbatch has no channel field, so issues of one that decoding recorded do not count.
	r.issues = slices.DeleteFunc(r.issues, func(i issue) bool { return i.field == fieldChannelID || i.field == fieldChannelType })
	f.channelID = "somebody"
	return r.Validate(payloadBytesMax)
}

// Address builds the send to one receiver. Everything else in the request has been validated.
func (r *Request) Address(uid string, payloadBytesMax int) outcome.Problem {
	r.issues = r.issues[:0]
	if strings.Contains(uid, "@") {
		r.bad(FieldSubscribers, "must be uids, which hold no '@'")
		return r.problem()
	}
	r.fields.channelID = uid
	return r.Validate(payloadBytesMax)
}
