package deadletter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// Message is a message of the message log with the names that it has in ClickHouse and in the API.
type Message struct {
	MessageID   int64     `json:"message_id"`
	MessageSeq  uint64    `json:"message_seq"`
	Timestamp   time.Time `json:"timestamp"`
	ChannelID   string    `json:"channel_id"`
	ChannelType uint32    `json:"channel_type"`
	FromUID     string    `json:"from_uid"`
	ClientMsgNo string    `json:"client_msg_no"`
	NoPersist   bool      `json:"no_persist"`
	RedDot      bool      `json:"red_dot"`
	SyncOnce    bool      `json:"sync_once"`
	StreamNo    string    `json:"stream_no"`
	TagKey      string    `json:"tag_key"`
	Expire      uint32    `json:"expire"`
	Subscribers []string  `json:"subscribers"`
	WALSeq      uint64    `json:"wal_seq"`
	WALIndex    uint32    `json:"wal_index"`
	Payload     []byte    `json:"payload"`
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
	var m message.Message
	switch {
	case letter.ContentType == message.ContentType && m.UnmarshalVT(letter.Body) == nil:
		shown.Message = messageOf(&m)
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

func messageOf(m *message.Message) *Message {
	return &Message{
		MessageID: int64(m.GetMessageId()), MessageSeq: m.GetMessageSeq(), Timestamp: m.AcceptedAt(),
		ChannelID: m.GetChannelId(), ChannelType: m.GetChannelType(), FromUID: m.GetFromUid(), ClientMsgNo: m.GetClientMsgNo(),
		NoPersist: m.GetNoPersist(), RedDot: m.GetRedDot(), SyncOnce: m.GetSyncOnce(), StreamNo: m.GetStreamNo(), TagKey: m.GetTagKey(),
		Expire: m.GetExpire(), Subscribers: append([]string{}, m.GetSubscribers()...),
		WALSeq: m.GetWalSeq(), WALIndex: m.GetWalIndex(), Payload: m.GetPayload(),
	}
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
		line("message_id", m.MessageID)
		line("message_seq", m.MessageSeq)
		line("timestamp", m.Timestamp.Format(time.RFC3339Nano))
		line("channel_id", printable(m.ChannelID))
		line("channel_type", m.ChannelType)
		line("from_uid", printable(m.FromUID))
		line("client_msg_no", printable(m.ClientMsgNo))
		line("flags", fmt.Sprintf("no_persist=%t red_dot=%t sync_once=%t", m.NoPersist, m.RedDot, m.SyncOnce))
		line("stream_no", printable(m.StreamNo))
		line("tag_key", printable(m.TagKey))
		line("expire", m.Expire)
		line("subscribers", len(m.Subscribers))
		line("wal", fmt.Sprintf("%d/%d", m.WALSeq, m.WALIndex))
		line("payload", printable(string(m.Payload)))
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

// printable is text as it is, or quoted if a terminal could take part of it for a command.
func printable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return text
	}
	return strconv.Quote(text)
}
