package clickhouse

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-faster/city"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// The digest of a row is the CityHash64 of the text of its columns, with commas between them. ClickHouse makes it of a row
// (digestExpression), and a Digester of a message. Text of any bytes has its length in front, so that two different rows never have the same text.

// textExpression is the text of a column in ClickHouse.
func textExpression(f message.Field) string {
	switch f.Kind {
	case message.Text, message.Bytes:
		return fmt.Sprintf("concat(toString(length(%[1]s)), ':', %[1]s)", f.Name)
	case message.Texts:
		return fmt.Sprintf("concat(toString(length(%[1]s)), ':', arrayStringConcat(arrayMap(s -> concat(toString(length(s)), ':', s), %[1]s), ''))", f.Name)
	case message.Time:
		return fmt.Sprintf("toString(toUnixTimestamp64Milli(%s))", f.Name)
	default:
		return fmt.Sprintf("toString(%s)", f.Name)
	}
}

// appendText appends the same text of a message's field.
func appendText(dst []byte, f *message.Field, s *message.Stored) []byte {
	switch f.Kind {
	case message.Text, message.Bytes:
		return appendSized(dst, f.Text(s))
	case message.Texts:
		list := f.Texts(s)
		dst = append(strconv.AppendInt(dst, int64(len(list)), 10), ':')
		for _, one := range list {
			dst = appendSized(dst, one)
		}
		return dst
	default:
		return strconv.AppendUint(dst, f.Number(s), 10)
	}
}

func appendSized(dst []byte, text string) []byte {
	return append(append(strconv.AppendInt(dst, int64(len(text)), 10), ':'), text...)
}

// textExpressions are the texts of all columns.
func textExpressions() []string {
	var texts []string
	for _, f := range storedFields() {
		texts = append(texts, textExpression(f))
	}
	return texts
}

// digestExpression is the digest of a row in ClickHouse.
func digestExpression() string {
	return "cityHash64(concat(" + strings.Join(textExpressions(), ", ',', ") + "))"
}

// Digester makes the digests of messages, to be held against those that ClickHouse makes of its rows. It
// is not safe for concurrent use.
type Digester struct {
	fields  []message.Field
	message message.Stored
	text    []byte
}

// Digester makes one.
func (c *Client) Digester() *Digester { return &Digester{fields: storedFields()} }

// Digested is what there is to compare of a message.
type Digested struct {
	Hash    uint64
	Expires uint64 // seconds of the Unix epoch from which on its row may be gone; 0: never
}

// Digest reads a message of the message log. One that cannot be stored is an error that wraps
// [ErrUndecodable]; it has no row.
func (d *Digester) Digest(partitionSeq uint64, encoded []byte) (Digested, error) {
	if err := decode(&d.message, partitionSeq, encoded); err != nil {
		return Digested{}, err
	}
	d.text = d.text[:0]
	for i := range d.fields {
		if i > 0 {
			d.text = append(d.text, ',')
		}
		d.text = appendText(d.text, &d.fields[i], &d.message)
	}
	out := Digested{Hash: city.CH64(d.text)}
	if m := &d.message.Message; m.GetExpire() > 0 {
		out.Expires = uint64(m.AcceptedAt().Unix()) + uint64(m.GetExpire())
	}
	return out, nil
}

// Texts returns the columns of a message as text, as [Client.RowTexts] returns those of rows.
func (d *Digester) Texts(partitionSeq uint64, encoded []byte) ([]string, error) {
	if err := decode(&d.message, partitionSeq, encoded); err != nil {
		return nil, err
	}
	texts := make([]string, len(d.fields))
	for i := range d.fields {
		texts[i] = string(appendText(nil, &d.fields[i], &d.message))
	}
	return texts, nil
}

// Names are the columns that Texts returns.
func (d *Digester) Names() []string {
	names := make([]string, len(d.fields))
	for i, f := range d.fields {
		names[i] = f.Name
	}
	return names
}
