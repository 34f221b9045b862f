package ingest

import (
	"strconv"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// answerWriteBytes is what is written at one time of an answer that may be long.
const answerWriteBytes = 32 << 10

// appendReply appends the body of a 200:
// {"message_id":1,"message_idstr":"1","message_seq":1,"client_msg_no":"…"}.
// The ID stands there twice because it passes 2^53, and JavaScript would round it.
func appendReply(dst []byte, a answer, clientMsgNo []byte) []byte {
	dst = append(dst, '{')
	dst = appendReplyFields(dst, a, clientMsgNo)
	return append(dst, "}\n"...)
}

// appendReplyElement appends a 200 as an element of the answer to many. What else is said
// by the HTTP status and by a header stands in fields of its own there.
func appendReplyElement(dst []byte, a answer, replayed bool, clientMsgNo []byte) []byte {
	dst = append(dst, `{"status":200,`...)
	dst = appendReplyFields(dst, a, clientMsgNo)
	if replayed {
		dst = append(dst, `,"idempotent_replayed":true`...)
	}
	return append(dst, "}\n"...)
}

func appendReplyFields(dst []byte, a answer, clientMsgNo []byte) []byte {
	dst = append(dst, `"message_id":`...)
	dst = strconv.AppendUint(dst, a.id, 10)
	dst = append(dst, `,"message_idstr":"`...)
	dst = strconv.AppendUint(dst, a.id, 10)
	dst = append(dst, `","message_seq":`...)
	dst = strconv.AppendUint(dst, a.seq, 10)
	dst = append(dst, `,"client_msg_no":`...)
	return api.AppendString(dst, clientMsgNo)
}
