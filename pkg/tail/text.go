package tail

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
)

// textEncoder writes a message as a line for people:
//
//	2026-01-31T12:00:00.123Z  2/group123 #7  user123: {"type":1,"content":"hi"}
//	2026-01-31T12:00:00.456Z  2/group123 live  user123: {"type":1001}
type textEncoder struct{ message message.Message }

func (e *textEncoder) Append(dst []byte, r messagelog.Entry) ([]byte, error) {
	m := &e.message
	m.Reset()
	if err := m.UnmarshalVT(r.Data); err != nil {
		return dst, fmt.Errorf("message %d of partition %d: not an encoded Message: %w", r.PartitionSeq, r.Partition, err)
	}
	dst = m.AcceptedAt().AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00")
	dst = append(dst, "  "...)
	dst = strconv.AppendUint(dst, uint64(m.GetChannelType()), 10)
	dst = append(dst, '/')
	dst = appendPrintable(dst, m.GetChannelId())
	if m.GetNoPersist() {
		dst = append(dst, " live"...)
	} else {
		dst = append(dst, " #"...)
		dst = strconv.AppendUint(dst, m.GetMessageSeq(), 10)
	}
	dst = append(dst, "  "...)
	dst = appendPrintable(dst, m.GetFromUid())
	dst = append(dst, ": "...)
	if payload := string(m.GetPayload()); printable(payload) {
		dst = append(dst, payload...)
	} else {
		dst = append(dst, "base64:"...)
		dst = base64.StdEncoding.AppendEncode(dst, m.GetPayload())
	}
	return append(dst, '\n'), nil
}

// appendPrintable keeps what a sender chose from steering the terminal.
func appendPrintable(dst []byte, s string) []byte {
	if printable(s) {
		return append(dst, s...)
	}
	return strconv.AppendQuote(dst, s)
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
