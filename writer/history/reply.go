package history

import (
	"encoding/base64"
	"strconv"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// appendPage appends a page in WuKongIM's format. The bounds are those of the request.
func appendPage(dst []byte, q *syncRequest, p page) []byte {
	return append(appendPageFields(append(dst, '{'), q, p), "}\n"...)
}

// appendPageFields appends the fields of a page.
func appendPageFields(dst []byte, q *syncRequest, p page) []byte {
	dst = append(dst, `"start_message_seq":`...)
	dst = strconv.AppendUint(dst, q.start, 10)
	dst = append(dst, `,"end_message_seq":`...)
	dst = strconv.AppendUint(dst, q.end, 10)
	dst = append(dst, `,"more":`...)
	dst = appendFlag(dst, p.more)
	dst = append(dst, `,"messages":[`...)
	for i := range p.rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendRow(dst, &q.named, &p.rows[i])
	}
	return append(dst, ']')
}

// appendRow appends a message. Clients expect no_persist and setting: stored messages have no_persist 0, and setting belongs
// to WuKongIM's own protocol, so no send here has one. What few messages have is left out of the others.
func appendRow(dst []byte, of *named, row *clickhouse.Row) []byte {
	dst = append(dst, `{"header":{"no_persist":0,"red_dot":`...)
	dst = appendFlag(dst, row.RedDot != 0)
	dst = append(dst, `,"sync_once":`...)
	dst = appendFlag(dst, row.SyncOnce != 0)
	dst = append(dst, `},"setting":0,`...)
	dst = appendIdentity(dst, clickhouse.Identity{MessageID: row.MessageID, MessageSeq: row.MessageSeq})
	dst = append(dst, `,"client_msg_no":`...)
	dst = api.AppendString(dst, row.ClientMsgNo)
	if row.StreamNo != "" {
		dst = append(dst, `,"stream_no":`...)
		dst = api.AppendString(dst, row.StreamNo)
	}
	if row.TagKey != "" {
		dst = append(dst, `,"tag_key":`...)
		dst = api.AppendString(dst, row.TagKey)
	}
	dst = append(dst, `,"from_uid":`...)
	dst = api.AppendString(dst, row.FromUID)
	dst = appendChannel(append(dst, ','), of)
	for i, uid := range row.Subscribers {
		if i == 0 {
			dst = append(dst, `,"subscribers":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = api.AppendString(dst, uid)
	}
	if len(row.Subscribers) > 0 {
		dst = append(dst, ']')
	}
	dst = append(dst, `,"expire":`...)
	dst = strconv.AppendUint(dst, uint64(row.Expire), 10)
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendUint(dst, uint64(row.UnixSeconds), 10)
	dst = append(dst, `,"payload":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, []byte(row.Payload))
	return append(dst, `"}`...)
}

// rowOverheadBytes is the approximate size of a message in a reply beyond its texts.
const rowOverheadBytes = 320

// replyBytes is the approximate size of a message in a reply.
func replyBytes(row *clickhouse.Row) int {
	bytes := rowOverheadBytes + len(row.Payload)/3*4 + len(row.ClientMsgNo) + len(row.FromUID) + len(row.StreamNo) + len(row.TagKey)
	for _, uid := range row.Subscribers {
		bytes += len(uid) + len(`"",`)
	}
	return bytes
}

func appendChannel(dst []byte, of *named) []byte {
	dst = append(dst, `"channel_id":`...)
	dst = api.AppendString(dst, of.shown)
	dst = append(dst, `,"channel_type":`...)
	return strconv.AppendUint(dst, uint64(of.channel.Type), 10)
}

// appendIdentity appends the ID and the sequence number. The ID appears twice because it exceeds 2^53, and JavaScript would round it.
func appendIdentity(dst []byte, identity clickhouse.Identity) []byte {
	dst = append(dst, `"message_id":`...)
	dst = strconv.AppendInt(dst, identity.MessageID, 10)
	dst = append(dst, `,"message_idstr":"`...)
	dst = strconv.AppendInt(dst, identity.MessageID, 10)
	dst = append(dst, `","message_seq":`...)
	return strconv.AppendUint(dst, identity.MessageSeq, 10)
}

func appendFlag(dst []byte, set bool) []byte {
	if set {
		return append(dst, '1')
	}
	return append(dst, '0')
}

// appendStatus appends the reply of /message/status.
func appendStatus(dst []byte, q *statusRequest, found status) []byte {
	dst = append(dst, `{"state":`...)
	dst = api.AppendString(dst, found.state)
	dst = append(dst, `,"client_msg_no":`...)
	dst = api.AppendString(dst, q.clientMsgNo)
	dst = appendChannel(append(dst, ','), &q.named)
	if found.identity.MessageID != 0 {
		dst = append(dst, ',')
		dst = appendIdentity(dst, found.identity)
	}
	if found.state == stateUnknown {
		dst = append(dst, `,"complete":`...)
		dst = strconv.AppendBool(dst, found.complete)
	}
	if found.hint != "" {
		dst = append(dst, `,"hint":`...)
		dst = api.AppendString(dst, found.hint)
	}
	return append(dst, "}\n"...)
}
