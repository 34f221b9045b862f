package deadletter

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ShowOptions are the arguments of the command that shows one letter.
type ShowOptions struct {
	ID   uint64 `arg:"" name:"id" help:"Dead letter by ID, as ls shows it."`
	JSON bool   `help:"Print JSON." env:"-"`
	Body bool   `help:"Write the body alone, as it is." env:"-"`
}

// Shown is what Show prints as JSON: the letter and its body, in the form that can be read best.
type Shown struct {
	Entry
	Message *Message        `json:"message,omitempty"` // a message of the message log
	Object  json.RawMessage `json:"object,omitempty"`  // a body that is JSON
	Raw     []byte          `json:"body,omitempty"`    // any other, in base64
}

// Message is a message of the message log.
type Message struct{ stored message.Stored }

// shownFields are the fields of a message in the order in which they are shown: what it is known by first, and the payload, which may be long, last.
// The place in the message log is shown with the letter.
func shownFields() []message.Field {
	rank := func(f message.Field) int {
		switch f.Name {
		case "message_id":
			return 1
		case "message_seq":
			return 2
		case "timestamp":
			return 3
		case "payload":
			return 5
		default:
			return 4
		}
	}
	fields := slices.DeleteFunc(message.Fields(), func(f message.Field) bool { return f.Origin == message.FromPlace })
	slices.SortStableFunc(fields, func(a, b message.Field) int { return cmp.Compare(rank(a), rank(b)) })
	return fields
}

// value is the value of a field as JSON and the shell know it.
func (m *Message) value(f message.Field) any {
	switch f.Kind {
	case message.Flag:
		return f.Number(&m.stored) != 0
	case message.Time:
		return time.UnixMilli(int64(f.Number(&m.stored))).UTC()
	case message.Text:
		return f.Text(&m.stored)
	case message.Bytes:
		return []byte(f.Text(&m.stored))
	case message.Texts:
		return append([]string{}, f.Texts(&m.stored)...)
	default:
		if f.Column == "Int64" {
			return int64(f.Number(&m.stored))
		}
		return f.Number(&m.stored)
	}
}

// MarshalJSON writes the message with the names that its fields have in ClickHouse and in the API.
func (m *Message) MarshalJSON() ([]byte, error) {
	var text bytes.Buffer
	for i, f := range shownFields() {
		fmt.Fprintf(&text, "%c%q:", "{,"[min(i, 1)], f.Name)
		if err := writeJSON(&text, m.value(f)); err != nil {
			return nil, fmt.Errorf("encode %s: %w", f.Name, err)
		}
	}
	text.WriteByte('}')
	return text.Bytes(), nil
}

// Show prints one letter with what it holds.
func Show(ctx context.Context, s *Stream, o ShowOptions, out io.Writer) error {
	letter, err := s.Get(ctx, o.ID)
	if err != nil {
		return err
	}
	if o.Body {
		if _, err := out.Write(letter.Body); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return nil
	}
	shown := Shown{Entry: letter}
	var m Message
	switch {
	case letter.ContentType == message.ContentType && m.stored.Decode(letter.Body) == nil:
		shown.Message = &m
	case json.Valid(letter.Body):
		shown.Object = letter.Body
	default:
		shown.Raw = letter.Body
	}
	if o.JSON {
		return writeJSON(out, shown)
	}
	return writeShown(out, shown)
}

// writeShown prints a line for each field.
func writeShown(out io.Writer, s Shown) error {
	var text strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&text, "%-14s %v\n", name, value) }
	line("id", s.ID)
	line("role", s.Role)
	line("reason", s.Reason)
	line("time", s.Time.Format(time.RFC3339Nano))
	line("stream", s.Stream)
	line("partition_seq", s.PartitionSeq)
	if s.Token != "" {
		line("token", s.Token)
	}
	line("error", printable(s.Error))
	line("content_type", s.ContentType)
	line("bytes", s.Bytes)
	switch m := s.Message; {
	case m != nil:
		text.WriteString("\n")
		m.writeLines(line)
	case s.Object != nil:
		line("body", string(s.Object))
	default:
		line("body", strconv.Quote(string(s.Raw)))
	}
	if _, err := io.WriteString(out, text.String()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// writeLines calls line for each field, but once for all flags, and once for the place in the write-ahead log.
func (m *Message) writeLines(line func(name string, value any)) {
	var flags []string
	for _, f := range shownFields() {
		if f.Kind == message.Flag {
			flags = append(flags, fmt.Sprintf("%s=%t", f.Name, m.value(f)))
		}
	}
	for _, f := range shownFields() {
		switch value := m.value(f).(type) {
		case bool:
			if len(flags) > 0 {
				line("flags", strings.Join(flags, " "))
				flags = nil
			}
		case time.Time:
			line(f.Name, value.Format(time.RFC3339Nano))
		case string:
			line(f.Name, printable(value))
		case []byte:
			line(f.Name, printable(string(value)))
		case []string:
			line(f.Name, len(value))
		default:
			switch f.Name {
			case "wal_seq":
				line("wal", fmt.Sprintf("%d/%d", value, m.stored.Message.GetWalIndex()))
			case "wal_index":
			default:
				line(f.Name, value)
			}
		}
	}
}

// printable is text as it is, or quoted if a terminal could take part of it for a command.
func printable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return text
	}
	return strconv.Quote(text)
}
