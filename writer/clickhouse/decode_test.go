package clickhouse

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

func drawMessage(t *rapid.T) *message.Message {
	text := func(label string, least, most int) string { return rapid.StringN(least, most, -1).Draw(t, label) }
	return &message.Message{
		ChannelId:   text("channel_id", 1, 40),
		ChannelType: rapid.Uint32Range(0, 255).Draw(t, "channel_type"),
		FromUid:     text("from_uid", 0, 40),
		ClientMsgNo: text("client_msg_no", 0, 40),
		RedDot:      rapid.Bool().Draw(t, "red_dot"),
		SyncOnce:    rapid.Bool().Draw(t, "sync_once"),
		StreamNo:    text("stream_no", 0, 10),
		TagKey:      text("tag_key", 0, 10),
		Expire:      rapid.Uint32().Draw(t, "expire"),
		Subscribers: rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "subscribers"),
		Payload:     rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
		MessageId:   uint64(rapid.Int64Min(1).Draw(t, "message_id")),
		MessageSeq:  rapid.Uint64Min(1).Draw(t, "message_seq"),
		WalSeq:      rapid.Uint64().Draw(t, "wal_seq"),
		WalIndex:    rapid.Uint32().Draw(t, "wal_index"),
	}
}

// requireRow wants each column of a row to have what the generated code decodes.
func requireRow(t require.TestingT, b *Block, row int, encoded []byte) {
	var want message.Stored
	require.NoError(t, want.Message.UnmarshalVT(encoded))
	want.Partition, want.PartitionSeq = message.ID(want.Message.GetMessageId()).Partition(), b.PartitionSeq(row)
	for i, f := range message.StoredFields() {
		switch c := b.columns[i].(type) {
		case *numbers[int64]:
			require.EqualValues(t, f.Number(&want), c.rows[row], f.Name)
		case *numbers[uint64]:
			require.Equal(t, f.Number(&want), c.rows[row], f.Name)
		case *numbers[uint32]:
			require.EqualValues(t, f.Number(&want), c.rows[row], f.Name)
		case *numbers[uint16]:
			require.EqualValues(t, f.Number(&want), c.rows[row], f.Name)
		case *numbers[uint8]:
			require.EqualValues(t, f.Number(&want), c.rows[row], f.Name)
		case *texts:
			require.Equal(t, f.Text(&want), c.rows[row], f.Name)
		case *lists:
			require.Equal(t, append([]string{}, f.Texts(&want)...), append([]string{}, c.row(row)...), f.Name)
		default:
			require.Fail(t, "an unknown column", f.Name)
		}
	}
}

// Two rounds, so that what Reset keeps is seen to do no harm.
func TestBlockHoldsWhatTheGeneratedCodeDecodes(t *testing.T) {
	t.Parallel()
	var b Block
	rapid.Check(t, func(t *rapid.T) {
		b.Reset()
		var all [][]byte
		messages := rapid.SliceOfN(rapid.Custom(drawMessage), 1, 6).Draw(t, "messages")
		for i, m := range messages {
			encoded, err := m.MarshalVT()
			require.NoError(t, err)
			if rapid.Bool().Draw(t, "unknown") { // a field of a later version
				encoded = protowire.AppendTag(encoded, 1000, protowire.Fixed32Type)
				encoded = protowire.AppendFixed32(encoded, 7)
			}
			require.NoError(t, b.Append(uint64(i+10), encoded))
			all = append(all, encoded)
		}
		require.Equal(t, len(messages), b.Rows())
		for i, want := range messages {
			requireRow(t, &b, i, all[i])
			require.EqualValues(t, i+10, b.PartitionSeq(i))
			require.Equal(t, want.AcceptedAt(), b.AcceptedAt(i))
		}
	})
}

func TestUndecodable(t *testing.T) {
	t.Parallel()
	good := func() *message.Message {
		return &message.Message{ChannelId: "c", ChannelType: 2, MessageId: uint64(message.MakeID(1, 0, 0)), MessageSeq: 1, Subscribers: []string{"a"}}
	}
	encode := func(change func(*message.Message)) []byte {
		m := good()
		change(m)
		encoded, err := m.MarshalVT()
		require.NoError(t, err)
		return encoded
	}
	for name, encoded := range map[string][]byte{
		"empty":           {},
		"text":            []byte("hello"),
		"cut":             encode(func(*message.Message) {})[:5],
		"no message_id":   encode(func(m *message.Message) { m.MessageId = 0 }),
		"negative id":     encode(func(m *message.Message) { m.MessageId = 1 << 63 }),
		"no message_seq":  encode(func(m *message.Message) { m.MessageSeq = 0 }),
		"no channel":      encode(func(m *message.Message) { m.ChannelId = "" }),
		"no_persist":      encode(func(m *message.Message) { m.NoPersist = true }),
		"channel_type":    encode(func(m *message.Message) { m.ChannelType = 256 }),
		"cut subscribers": append(encode(func(*message.Message) {}), 0x5a, 0x7f),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b Block
			keep := encode(func(*message.Message) {})
			require.NoError(t, b.Append(1, keep))
			require.ErrorIs(t, b.Append(2, encoded), ErrUndecodable)
			require.NoError(t, b.Append(3, keep))
			require.Equal(t, 2, b.Rows())
			require.Equal(t, "c", b.Key(1).ChannelID)
			for i := range b.Rows() {
				requireRow(t, &b, i, keep)
			}
		})
	}
}

func FuzzAppend(f *testing.F) {
	m := &message.Message{ChannelId: "c", ChannelType: 2, FromUid: "u", Payload: []byte("p"), MessageId: 1 << 23, MessageSeq: 1, WalSeq: 3, Subscribers: []string{"a"}}
	encoded, err := m.MarshalVT()
	require.NoError(f, err)
	f.Add(encoded)
	f.Fuzz(func(t *testing.T, data []byte) {
		var b Block
		if b.Append(1, data) != nil {
			require.Zero(t, b.Rows())
			return
		}
		var want message.Message
		require.NoError(t, want.UnmarshalVT(data))
		requireRow(t, &b, 0, data)
	})
}

// The overhead of a row: 53 bytes of numbers, an offset and a terminating byte for each of the 6 strings, and the offset of the array.
func TestRowOverhead(t *testing.T) {
	t.Parallel()
	var b Block
	b.prepare()
	require.GreaterOrEqual(t, b.rowBytes, 53+6*9+8, "fields are only added")
}
