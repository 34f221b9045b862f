package message_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// drawMessage draws a message with its identity, and the encoding of its send.
func drawMessage(t *rapid.T) (*message.Message, []byte, message.Identity) {
	text := func(name string) string { return rapid.String().Draw(t, name) }
	send := &message.Send{
		ChannelId: text("channel"), ChannelType: rapid.Uint32().Draw(t, "type"), FromUid: text("from"), ClientMsgNo: text("client_msg_no"),
		NoPersist: rapid.Bool().Draw(t, "no_persist"), RedDot: rapid.Bool().Draw(t, "red_dot"), SyncOnce: rapid.Bool().Draw(t, "sync_once"),
		StreamNo: text("stream_no"), TagKey: text("tag_key"), Expire: rapid.Uint32().Draw(t, "expire"),
		Subscribers: rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "subscribers"),
		Payload:     rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
	}
	encoded, err := send.MarshalVT()
	require.NoError(t, err)
	id := message.Identity{
		ID: message.ID(rapid.Int64Min(1).Draw(t, "id")), Seq: rapid.Uint64().Draw(t, "seq"),
		WALSeq: rapid.Uint64Min(1).Draw(t, "wal_seq"), WALIndex: rapid.Uint32().Draw(t, "wal_index"),
	}
	return &message.Message{
		ChannelId: send.GetChannelId(), ChannelType: send.GetChannelType(), FromUid: send.GetFromUid(), ClientMsgNo: send.GetClientMsgNo(),
		NoPersist: send.GetNoPersist(), RedDot: send.GetRedDot(), SyncOnce: send.GetSyncOnce(), StreamNo: send.GetStreamNo(), TagKey: send.GetTagKey(),
		Expire: send.GetExpire(), Subscribers: send.GetSubscribers(), Payload: send.GetPayload(),
		MessageId: uint64(id.ID), MessageSeq: id.Seq, WalSeq: id.WALSeq, WalIndex: id.WALIndex,
	}, encoded, id
}

// TestMessageBatchIsWhatTheProtoSays: what is put together by hand is byte for byte what the generated code writes and reads, and is taken
// apart again.
func TestMessageBatchIsWhatTheProtoSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &message.MessageBatch{First: rapid.Uint64Min(1).Draw(t, "first"), NewestId: rapid.Uint64Max(1<<63-1).Draw(t, "newest")}
		batch := message.AppendBatchHead(nil, want.GetFirst(), message.ID(want.GetNewestId()))
		require.LessOrEqual(t, len(batch), message.BatchHeadSizeMax)
		var encodings [][]byte
		for range rapid.IntRange(0, 5).Draw(t, "messages") {
			m, send, id := drawMessage(t)
			want.Messages = append(want.Messages, m)
			encodings = append(encodings, message.AppendMessage(nil, send, id))
			before := len(batch)
			batch = message.AppendBatchMessage(batch, send, id)
			require.LessOrEqual(t, len(batch)-before, len(send)+message.MessageFrameOverheadMax)
			read, err := message.ViewID(encodings[len(encodings)-1])
			require.NoError(t, err)
			require.Equal(t, id.ID, read)
			seq, err := message.ViewSeq(encodings[len(encodings)-1])
			require.NoError(t, err)
			require.Equal(t, id.Seq, seq)
			record, err := message.ViewWALSeq(encodings[len(encodings)-1])
			require.NoError(t, err)
			require.Equal(t, id.WALSeq, record)
		}
		generated, err := want.MarshalVT()
		require.NoError(t, err)
		require.Equal(t, generated, batch)
		have := new(message.MessageBatch)
		require.NoError(t, have.UnmarshalVT(batch))
		require.True(t, want.EqualVT(have), "%v, %v", want, have)

		view := message.BatchView{Messages: make([][]byte, 3)} // of another batch before
		require.NoError(t, message.ViewBatch(batch, &view))
		require.Equal(t, want.GetFirst(), view.First)
		require.Equal(t, message.ID(want.GetNewestId()), view.NewestID)
		require.Len(t, view.Messages, len(encodings))
		for i := range encodings {
			require.Equal(t, encodings[i], view.Messages[i])
		}
		require.Equal(t, want.GetFirst()+uint64(len(encodings)), view.Next())
	})
}

func TestViewBatchRefusesWhatIsNone(t *testing.T) {
	t.Parallel()
	whole := message.AppendBatchHead(nil, 300, message.MakeID(1<<40, 1, 1))
	whole = message.AppendBatchMessage(whole, []byte("\x0a\x01c"), message.Identity{ID: 1, Seq: 1, WALSeq: 1})
	var view message.BatchView
	require.NoError(t, message.ViewBatch(whole, &view))
	for name, bad := range map[string][]byte{
		"nothing":       {},
		"text":          []byte("no batch"),
		"no first":      message.AppendBatchMessage(nil, []byte("\x0a\x01c"), message.Identity{ID: 1, WALSeq: 1}),
		"first is zero": {0x08, 0x00},
		"a cut first":   {0x08},
		"a cut id":      whole[:8],
		"a cut message": whole[:len(whole)-1],
	} {
		require.ErrorIs(t, message.ViewBatch(bad, &view), message.ErrNotAMessageBatch, name)
	}
	for _, bad := range [][]byte{{0xff}, {0x81, 0x01, 0x00}} {
		_, err := message.ViewID(bad)
		require.ErrorIs(t, err, message.ErrNotAMessage)
	}
}

// FuzzViewBatch holds the reader without copies against the generated one: what both can read, they read alike, and bytes that are no batch panic in neither.
func FuzzViewBatch(f *testing.F) {
	f.Add(message.AppendBatchHead(nil, 1, 1))
	f.Add(message.AppendBatchMessage(message.AppendBatchHead(nil, 1<<40, 1<<60), []byte("\x0a\x01c"), message.Identity{ID: 1, Seq: 1, WALSeq: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var view message.BatchView
		var batch message.MessageBatch
		if message.ViewBatch(data, &view) != nil || batch.UnmarshalVT(data) != nil {
			return // the one refuses numbers that are too long, the other messages that are none
		}
		require.Equal(t, batch.GetFirst(), view.First)
		require.Equal(t, batch.GetNewestId(), uint64(view.NewestID))
		require.Len(t, view.Messages, len(batch.GetMessages()))
	})
}
