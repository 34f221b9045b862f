package clickhouse

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-faster/city"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// The digest of a row is the CityHash64 of the text of its columns, separated by commas. ClickHouse computes it for a row
// (digestExpression), and a Digester for a message. Arbitrary text is prefixed with its length, so that two different rows
// never have the same text.

// textExpression returns the SQL expression for the text of a column.
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

// appendText appends the same text, computed from a message's field.
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

// textExpressions returns the SQL expressions for the texts of all columns.
func textExpressions() []string {
	var texts []string
	for _, f := range message.StoredFields() {
		texts = append(texts, textExpression(f))
	}
	return texts
}

// digestExpression returns the SQL expression for the digest of a row.
func digestExpression() string {
	return "cityHash64(concat(" + strings.Join(textExpressions(), ", ',', ") + "))"
}

// Digester computes the digests of messages, to be compared with those that ClickHouse computes of its rows. It is not
// safe for concurrent use.
type Digester struct {
	fields  []message.Field
	message message.Stored
	text    []byte
}

// NewDigester returns a digester.
func NewDigester() *Digester { return &Digester{fields: message.StoredFields()} }

// Digested is what an audit compares of a message.
type Digested struct {
	Hash    uint64
	Expires uint64 // time, in seconds of the Unix epoch, after which ClickHouse may remove its row; 0: never
}

// Digest decodes a message of the message log. For a message that cannot be stored, and so has no row, it returns an error
// that wraps [ErrUndecodable].
func (d *Digester) Digest(partitionSeq uint64, encoded []byte) (Digested, error) {
	if err := Decode(&d.message, partitionSeq, encoded); err != nil {
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
	if err := Decode(&d.message, partitionSeq, encoded); err != nil {
		return nil, err
	}
	texts := make([]string, len(d.fields))
	for i := range d.fields {
		texts[i] = string(appendText(nil, &d.fields[i], &d.message))
	}
	return texts, nil
}

// Names returns the names of the columns that Texts returns.
func (d *Digester) Names() []string {
	names := make([]string, len(d.fields))
	for i, f := range d.fields {
		names[i] = f.Name
	}
	return names
}
