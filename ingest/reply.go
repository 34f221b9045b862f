package ingest

import (
	"strconv"
	"unicode/utf8"
)

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
	return appendJSONString(dst, clientMsgNo)
}

// appendJSONString appends s as a JSON string. Bytes that are not UTF-8, which
// validated text does not have, become U+FFFD.
func appendJSONString[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, s[from:i]...)
				dst = append(dst, "\ufffd"...)
				from = i + size
			}
			i += size
			continue
		}
		if b >= ' ' && b != '"' && b != '\\' {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		switch b {
		case '"', '\\':
			dst = append(dst, '\\', b)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
