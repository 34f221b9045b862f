package clickhouse

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-faster/city"
)

// field is one column as text, as ClickHouse makes it of a row and as we make it of a message. Text of
// any bytes is written with its length in front, so that two different rows never give the same.
type field struct {
	name   string
	sql    string
	append func(dst []byte, r *row, d *Digester) []byte
}

// fields lists all columns, in the order of the digest's text.
func fields() []field {
	text := func(name string, value func(*row) string) field {
		return field{name, fmt.Sprintf("concat(toString(length(%s)), ':', %s)", name, name), func(dst []byte, r *row, _ *Digester) []byte {
			s := value(r)
			return append(append(strconv.AppendInt(dst, int64(len(s)), 10), ':'), s...)
		}}
	}
	number := func(name string, value func(r *row, d *Digester) uint64) field {
		return field{name, "toString(" + name + ")", func(dst []byte, r *row, d *Digester) []byte {
			return strconv.AppendUint(dst, value(r, d), 10)
		}}
	}
	timestamp := number("timestamp", func(r *row, _ *Digester) uint64 { return uint64(r.unixMilli()) })
	timestamp.sql = "toString(toUnixTimestamp64Milli(timestamp))"
	subscribers := field{
		"subscribers",
		"concat(toString(length(subscribers)), ':', arrayStringConcat(arrayMap(s -> concat(toString(length(s)), ':', s), subscribers), ''))",
		func(dst []byte, _ *row, d *Digester) []byte {
			dst = append(strconv.AppendInt(dst, int64(len(d.subscribers)), 10), ':')
			for _, s := range d.subscribers {
				dst = append(append(strconv.AppendInt(dst, int64(len(s)), 10), ':'), s...)
			}
			return dst
		},
	}
	return []field{
		number("message_id", func(r *row, _ *Digester) uint64 { return uint64(r.id) }),
		number("message_seq", func(r *row, _ *Digester) uint64 { return r.seq }),
		text("channel_id", func(r *row) string { return r.channelID }),
		number("channel_type", func(r *row, _ *Digester) uint64 { return uint64(r.channelType) }),
		text("from_uid", func(r *row) string { return r.fromUID }),
		text("client_msg_no", func(r *row) string { return r.clientMsgNo }),
		number("red_dot", func(r *row, _ *Digester) uint64 { return uint64(r.redDot) }),
		number("sync_once", func(r *row, _ *Digester) uint64 { return uint64(r.syncOnce) }),
		text("stream_no", func(r *row) string { return r.streamNo }),
		text("tag_key", func(r *row) string { return r.tagKey }),
		number("expire", func(r *row, _ *Digester) uint64 { return uint64(r.expire) }),
		subscribers,
		text("payload", func(r *row) string { return r.payload }),
		timestamp,
		number("partition", func(r *row, _ *Digester) uint64 { return uint64(r.id.Partition()) }),
		number("partition_seq", func(_ *row, d *Digester) uint64 { return d.partitionSeq }),
		number("wal_seq", func(r *row, _ *Digester) uint64 { return r.walSeq }),
		number("wal_index", func(r *row, _ *Digester) uint64 { return uint64(r.walIndex) }),
	}
}

// digestExpression is the digest of a row in ClickHouse: the CityHash64 of its fields' text, with commas
// between them.
func digestExpression(fields []field) string {
	parts := make([]string, len(fields))
	for i, f := range fields {
		parts[i] = f.sql
	}
	return "cityHash64(concat(" + strings.Join(parts, ", ',', ") + "))"
}

// Digester makes the digests of messages, to be held against those that ClickHouse makes of its rows. It
// is not safe for concurrent use.
type Digester struct {
	fields       []field
	partitionSeq uint64
	subscribers  []string
	text         []byte
}

// Digester makes one.
func (c *Client) Digester() *Digester { return &Digester{fields: fields()} }

// Digested is what there is to compare of a message.
type Digested struct {
	Hash    uint64
	Expires uint64 // seconds of the Unix epoch from which on its row may be gone; 0: never
}

// Digest reads a message of the message log. One that cannot be stored is an error that wraps
// [ErrUndecodable]; it has no row.
func (d *Digester) Digest(partitionSeq uint64, encoded []byte) (Digested, error) {
	r, err := d.decode(partitionSeq, encoded)
	if err != nil {
		return Digested{}, err
	}
	d.text = d.text[:0]
	for i, f := range d.fields {
		if i > 0 {
			d.text = append(d.text, ',')
		}
		d.text = f.append(d.text, &r, d)
	}
	out := Digested{Hash: city.CH64(d.text)}
	if r.expire > 0 {
		out.Expires = uint64(r.unixMilli()/1000) + uint64(r.expire)
	}
	return out, nil
}

// Texts gives the fields of a message as text, as [Client.RowTexts] gives those of rows.
func (d *Digester) Texts(partitionSeq uint64, encoded []byte) ([]string, error) {
	r, err := d.decode(partitionSeq, encoded)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(d.fields))
	for i, f := range d.fields {
		texts[i] = string(f.append(nil, &r, d))
	}
	return texts, nil
}

// Names are the columns that Texts gives.
func (d *Digester) Names() []string {
	names := make([]string, len(d.fields))
	for i, f := range d.fields {
		names[i] = f.name
	}
	return names
}

func (d *Digester) decode(partitionSeq uint64, encoded []byte) (row, error) {
	var r row
	d.partitionSeq, d.subscribers = partitionSeq, d.subscribers[:0]
	if err := r.decode(encoded, &d.subscribers); err != nil {
		return r, fmt.Errorf("partition_seq %d: %w", partitionSeq, err)
	}
	return r, nil
}
