package message

import (
	"slices"
	"unsafe"
)

// Kind is how a field's value is read, stored and shown.
type Kind uint8

// The kinds.
const (
	Number Kind = iota // an integer; [Field.Number]
	Flag               // 0 or 1; [Field.Number]
	Time               // milliseconds since 1970; [Field.Number]
	Text               // UTF-8; [Field.Text]
	Bytes              // any bytes, base64 in JSON; [Field.Text]
	Texts              // a list of texts; [Field.Texts]
)

// Origin is the source of a field's value.
type Origin uint8

// The origins.
const (
	FromSend     Origin = iota // the request
	FromIdentity               // the sequencer
	FromPlace                  // where the message stands in the message log; it is no part of its encoding
)

// Stored is a decoded message with its place in the message log.
type Stored struct {
	Message      Message
	Partition    int
	PartitionSeq uint64
}

// Decode reads an encoded message. Its texts alias the encoding, which must not be changed as long as they are used.
func (s *Stored) Decode(encoded []byte) error {
	s.Message = Message{Subscribers: s.Message.Subscribers[:0]} // so that a list needs no memory of its own each time
	return s.Message.UnmarshalVTUnsafe(encoded)
}

// Release lets go of the encoding that the texts alias.
func (s *Stored) Release() {
	subscribers := s.Message.Subscribers[:cap(s.Message.Subscribers)]
	clear(subscribers)
	s.Message = Message{Subscribers: subscribers[:0]}
}

// Field describes one field of a message. Everything that stores, compares or shows whole messages follows [Fields] or is held against them by a
// test: the block of an insert, the columns of the table and of its views, the digest of an audit, a line of NDJSON, a dead letter, an answer
// of /channel/messagesync, and the API's document. To add a field: describe it here and in message.proto, add a migration, and
// run the tests.
type Field struct {
	Name   string // in the .proto, in JSON, and of the column
	Kind   Kind
	Origin Origin
	// Column is the type of the column in ClickHouse; empty if the table has none. A column takes part in the comparison of an audit.
	Column string
	// Synced fields are part of a message in an answer of /channel/messagesync and the other routes that read messages.
	Synced bool

	// One of these reads the value, by Kind. Texts alias the message.
	Number func(s *Stored) uint64
	Text   func(s *Stored) string
	Texts  func(s *Stored) []string
}

// Fields lists the fields of a message in the order of the table's columns.
func Fields() []Field {
	return []Field{
		{Name: "message_id", Origin: FromIdentity, Column: "Int64", Synced: true, Number: func(s *Stored) uint64 { return s.Message.MessageId }},
		{Name: "message_seq", Origin: FromIdentity, Column: "UInt64", Synced: true, Number: func(s *Stored) uint64 { return s.Message.MessageSeq }},
		{Name: "channel_id", Kind: Text, Column: "String", Synced: true, Text: func(s *Stored) string { return s.Message.ChannelId }},
		{Name: "channel_type", Column: "UInt8", Synced: true, Number: func(s *Stored) uint64 { return uint64(s.Message.ChannelType) }},
		{Name: "from_uid", Kind: Text, Column: "String", Synced: true, Text: func(s *Stored) string { return s.Message.FromUid }},
		{Name: "client_msg_no", Kind: Text, Column: "String", Synced: true, Text: func(s *Stored) string { return s.Message.ClientMsgNo }},
		{Name: "no_persist", Kind: Flag, Synced: true, Number: func(s *Stored) uint64 { return flag(s.Message.NoPersist) }}, // no such message is stored
		{Name: "red_dot", Kind: Flag, Column: "UInt8", Synced: true, Number: func(s *Stored) uint64 { return flag(s.Message.RedDot) }},
		{Name: "sync_once", Kind: Flag, Column: "UInt8", Synced: true, Number: func(s *Stored) uint64 { return flag(s.Message.SyncOnce) }},
		{Name: "stream_no", Kind: Text, Column: "String", Synced: true, Text: func(s *Stored) string { return s.Message.StreamNo }},
		{Name: "tag_key", Kind: Text, Column: "String", Synced: true, Text: func(s *Stored) string { return s.Message.TagKey }},
		{Name: "expire", Column: "UInt32", Synced: true, Number: func(s *Stored) uint64 { return uint64(s.Message.Expire) }},
		{Name: "subscribers", Kind: Texts, Column: "Array(String)", Synced: true, Texts: func(s *Stored) []string { return s.Message.Subscribers }},
		{Name: "payload", Kind: Bytes, Column: "String", Synced: true, Text: func(s *Stored) string { return alias(s.Message.Payload) }},
		{Name: "timestamp", Kind: Time, Origin: FromIdentity, Column: "DateTime64(3, 'UTC')", Synced: true, Number: func(s *Stored) uint64 { return uint64(milliOf(ID(s.Message.MessageId), s.Message.Timestamp)) }},
		{Name: "partition", Origin: FromPlace, Column: "UInt16", Number: func(s *Stored) uint64 { return uint64(s.Partition) }},
		{Name: "partition_seq", Origin: FromPlace, Column: "UInt64", Number: func(s *Stored) uint64 { return s.PartitionSeq }},
		{Name: "wal_seq", Origin: FromIdentity, Column: "UInt64", Number: func(s *Stored) uint64 { return s.Message.WalSeq }},
		{Name: "wal_index", Origin: FromIdentity, Column: "UInt32", Number: func(s *Stored) uint64 { return uint64(s.Message.WalIndex) }},
	}
}

// StoredFields returns the fields that have a column, in the order of the table and of an INSERT. Additional columns of a table take their
// defaults.
func StoredFields() []Field {
	return slices.DeleteFunc(Fields(), func(f Field) bool { return f.Column == "" })
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// alias is a string over the same memory.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
