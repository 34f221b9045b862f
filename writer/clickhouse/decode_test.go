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

func (b *Block) messageAt(i int) *message.Message {
	m := &message.Message{
		ChannelId: b.channelID[i], ChannelType: uint32(b.channelType[i]), FromUid: b.fromUID[i], ClientMsgNo: b.clientMsgNo[i],
		RedDot: b.redDot[i] == 1, SyncOnce: b.syncOnce[i] == 1, StreamNo: b.streamNo[i], TagKey: b.tagKey[i], Expire: b.expire[i],
		Payload: []byte(b.payload[i]), MessageId: uint64(b.messageID[i]), MessageSeq: b.messageSeq[i], WalSeq: b.walSeq[i], WalIndex: b.walIndex[i],
	}
	m.Subscribers = append(m.Subscribers, b.subscribersOf(i)...)
	return m
}

// Two rounds, so that what Reset keeps is seen to do no harm.
func TestBlockHoldsWhatTheGeneratedCodeDecodes(t *testing.T) {
	t.Parallel()
	var b Block
	rapid.Check(t, func(t *rapid.T) {
		b.Reset()
		messages := rapid.SliceOfN(rapid.Custom(drawMessage), 1, 6).Draw(t, "messages")
		for i, m := range messages {
			encoded, err := m.MarshalVT()
			require.NoError(t, err)
			if rapid.Bool().Draw(t, "unknown") { // a field of a later version
				encoded = protowire.AppendTag(encoded, 1000, protowire.Fixed32Type)
				encoded = protowire.AppendFixed32(encoded, 7)
			}
			require.NoError(t, b.Append(uint64(i+10), encoded))
		}
		require.Equal(t, len(messages), b.Rows())
		for i, want := range messages {
			require.True(t, want.EqualVT(b.messageAt(i)), "want %v\nhave %v", want, b.messageAt(i))
			require.EqualValues(t, i+10, b.PartitionSeq(i))
			require.Equal(t, want.AcceptedAt(), b.AcceptedAt(i))
			require.EqualValues(t, b.MessageID(i).Partition(), b.partition[i])
		}
	})
}

func TestFieldNumbers(t *testing.T) {
	t.Parallel()
	fields := (&message.Message{}).ProtoReflect().Descriptor().Fields()
	for name, number := range map[string]protowire.Number{
		"channel_id": fieldChannelID, "channel_type": fieldChannelType, "from_uid": fieldFromUID, "client_msg_no": fieldClientMsgNo,
		"no_persist": fieldNoPersist, "red_dot": fieldRedDot, "sync_once": fieldSyncOnce, "stream_no": fieldStreamNo, "tag_key": fieldTagKey,
		"expire": fieldExpire, "subscribers": fieldSubscribers, "payload": fieldPayload, "message_id": fieldMessageID,
		"message_seq": fieldMessageSeq, "wal_seq": fieldWALSeq, "wal_index": fieldWALIndex, "timestamp": fieldTimestamp,
	} {
		require.Equal(t, name, string(fields.ByNumber(number).Name()))
	}
	require.Equal(t, 17, fields.Len(), "a field was added to Message: decide whether the table gets it")
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
			require.Equal(t, []string{"a"}, b.subscribersOf(1))
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
		// What we take, any decoder takes, but for text that is not UTF-8, and reads the same.
		var want message.Message
		if want.UnmarshalVT(data) == nil {
			require.Equal(t, want.GetChannelId(), b.channelID[0])
			require.Equal(t, want.GetMessageSeq(), b.messageSeq[0])
			require.Equal(t, string(want.GetPayload()), b.payload[0])
		}
	})
}
