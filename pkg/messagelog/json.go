package messagelog

import (
	"fmt"
	"strconv"
	"time"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Encoder writes messages as JSON, one object a line. Its fields are the columns of the table, in the
// same order; payload is base64, and message_idstr stands beside message_id since JavaScript rounds
// what passes 2^53. It is not safe for concurrent use.
type Encoder struct {
	fields  []message.Field // those that have a column
	message message.Stored
	json    jx.Encoder
}

// Append appends a message's line to dst.
func (e *Encoder) Append(dst []byte, r Entry) ([]byte, error) {
	if e.fields == nil {
		e.fields = message.StoredFields()
	}
	if err := e.message.Decode(r.Data); err != nil {
		return dst, fmt.Errorf("message %d of partition %d: not an encoded Message: %w", r.PartitionSeq, r.Partition, err)
	}
	e.message.Partition, e.message.PartitionSeq = r.Partition, r.PartitionSeq
	e.json.Reset()
	e.json.ObjStart()
	for i := range e.fields {
		e.field(&e.fields[i])
	}
	e.json.ObjEnd()
	return append(append(dst, e.json.Bytes()...), '\n'), nil
}

func (e *Encoder) field(f *message.Field) {
	j := &e.json
	j.FieldStart(f.Name)
	switch f.Kind {
	case message.Text:
		j.Str(f.Text(&e.message))
	case message.Bytes:
		j.Base64([]byte(f.Text(&e.message)))
	case message.Texts:
		j.ArrStart()
		for _, s := range f.Texts(&e.message) {
			j.Str(s)
		}
		j.ArrEnd()
	case message.Time:
		j.Str(time.UnixMilli(int64(f.Number(&e.message))).UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	default:
		j.UInt64(f.Number(&e.message))
	}
	if f.Name == "message_id" {
		j.FieldStart("message_idstr")
		j.Str(strconv.FormatInt(int64(f.Number(&e.message)), 10))
	}
}
