package messagelog

import (
	"encoding/base64"
	"fmt"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Encoder writes messages as JSON, one object a line. Its fields are the columns of the table, in the
// same order; payload is base64, and message_idstr stands beside message_id since JavaScript rounds
// what passes 2^53. It is not safe for concurrent use.
type Encoder struct {
	message message.Message
	json    jx.Encoder
}

// Append appends a message's line to dst.
func (e *Encoder) Append(dst []byte, r Entry) ([]byte, error) {
	m := &e.message
	m.Reset()
	if err := m.UnmarshalVTUnsafe(r.Data); err != nil {
		return dst, fmt.Errorf("message %d of partition %d: not an encoded Message: %w", r.Seq, r.Partition, err)
	}
	j := &e.json
	j.Reset()
	j.ObjStart()
	number := func(name string, n uint64) {
		j.FieldStart(name)
		j.UInt64(n)
	}
	text := func(name, s string) {
		j.FieldStart(name)
		j.Str(s)
	}
	id := message.ID(m.GetMessageId())
	number("message_id", uint64(id))
	text("message_idstr", fmt.Sprint(int64(id)))
	number("message_seq", m.GetMessageSeq())
	text("channel_id", m.GetChannelId())
	number("channel_type", uint64(m.GetChannelType()))
	text("from_uid", m.GetFromUid())
	text("client_msg_no", m.GetClientMsgNo())
	number("red_dot", flag(m.GetRedDot()))
	number("sync_once", flag(m.GetSyncOnce()))
	text("stream_no", m.GetStreamNo())
	text("tag_key", m.GetTagKey())
	number("expire", uint64(m.GetExpire()))
	j.FieldStart("subscribers")
	j.ArrStart()
	for _, s := range m.GetSubscribers() {
		j.Str(s)
	}
	j.ArrEnd()
	text("payload", base64.StdEncoding.EncodeToString(m.GetPayload()))
	text("timestamp", m.AcceptedAt().Format("2006-01-02T15:04:05.000Z07:00"))
	number("partition", uint64(r.Partition))
	number("partition_seq", r.Seq)
	number("wal_seq", m.GetWalSeq())
	number("wal_index", uint64(m.GetWalIndex()))
	j.ObjEnd()
	return append(append(dst, j.Bytes()...), '\n'), nil
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
