package audit

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// harness adds what the tests of this package ask.
type harness struct{ *sequencertest.Harness }

func setup(t testing.TB) *harness {
	t.Helper()
	return &harness{sequencertest.Setup(t)}
}

func (h *harness) chain(memoryBytesMax int64) *audit.Part {
	h.T.Helper()
	part, err := Chain(h.Ctx, h.JS, 0, memoryBytesMax, slog.New(slog.DiscardHandler))
	require.NoError(h.T, err)
	return part
}

// forge puts a record with one message into the log by a foreign hand; first is the place that it says the message has.
func (h *harness) forge(first uint64, channel string, identity message.Identity) {
	h.T.Helper()
	encoded, err := sequencertest.Send(channel, "forged").MarshalVT()
	require.NoError(h.T, err)
	h.Put(testkit.MessageBatch(first, message.AppendMessage(nil, encoded, identity)))
}

func TestChainIsWholeHoweverOftenItIsRead(t *testing.T) {
	t.Parallel()
	h := setup(t)
	require.Zero(t, h.chain(1<<20).Compared, "an empty log")
	h.Start()
	for i := range 60 {
		no := strconv.Itoa(i)
		h.Ask(sequencertest.Send("a"+strconv.Itoa(i%20), no), sequencertest.Send("b", no), sequencertest.Send("b", no)) // the last is a duplicate
		h.Ask(sequencertest.Send("b", no))                                                                              // a record without a message
	}
	h.Messages(120)
	for memory, passes := range map[int64]int{1 << 20: 1, 21 * chainChannelBytes: 1, 20 * chainChannelBytes: 3} {
		part := h.chain(memory)
		require.Zero(t, part.Differences, part.First)
		require.EqualValues(t, 120, part.Compared)
		require.Equal(t, passes, part.Details.(*Chained).Passes)
		require.EqualValues(t, 21, part.Details.(*Chained).Channels)
	}
	// Retention takes the beginning: the channels may begin anywhere then.
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(h.Ctx, jetstream.WithPurgeSequence(51)))
	part := h.chain(1 << 20)
	require.Zero(t, part.Differences, part.First)
	require.EqualValues(t, 70, part.Compared)
	// And everything: how many messages there were is not known then.
	require.NoError(t, stream.Purge(h.Ctx))
	part = h.chain(1 << 20)
	require.Zero(t, part.Differences, part.First)
	require.Zero(t, part.Compared)
}

// Where channels are left to later passes none is left out: each has a gap, and each gap is found.
func TestChainChecksEveryChannelInSomePass(t *testing.T) {
	t.Parallel()
	h := setup(t)
	const channels = 200
	encode := func(n int, id message.ID, seq, record uint64) []byte {
		encoded, err := sequencertest.Send("c"+strconv.Itoa(n), "x").MarshalVT()
		require.NoError(t, err)
		return message.AppendMessage(nil, encoded, message.Identity{ID: id, Seq: seq, WALSeq: record, WALIndex: uint32(n)})
	}
	for record, seq := range []uint64{1, 3} { // 2 is missing
		var batch [][]byte
		for n := range channels {
			batch = append(batch, encode(n, message.MakeID(int64(record+1), 0, n), seq, uint64(record+1)))
		}
		h.Put(testkit.MessageBatch(uint64(record*channels+1), batch...))
	}
	for _, memory := range []int64{1 << 20, 30 * chainChannelBytes, chainChannelBytes} {
		part := h.chain(memory)
		require.EqualValues(t, channels, part.Differences, "%d bytes: %v", memory, part.First)
		require.EqualValues(t, 2*channels, part.Compared)
		require.Contains(t, part.First[0], "message_seq 3 of channel 2/c")
	}
}

// What lies before a record that cannot be read is checked all the same, in one pass and in many; and a log that has its beginning
// begins with message 1.
func TestChainChecksWhatLiesBeforeAForeignRecord(t *testing.T) {
	t.Parallel()
	h := setup(t)
	const channels = 20
	for n := range channels {
		h.forge(uint64(n+2), "c"+strconv.Itoa(n), message.Identity{ID: message.MakeID(int64(n+1), 0, 0), Seq: 2, WALSeq: uint64(n + 1)})
	}
	h.Put([]byte("no batch"))
	h.forge(channels+2, "behind", message.Identity{ID: message.MakeID(1<<40, 0, 0), Seq: 2, WALSeq: channels + 2})
	for _, memory := range []int64{1 << 20, 4 * chainChannelBytes} {
		part := h.chain(memory)
		require.EqualValues(t, channels+2, part.Differences, "%d bytes: %v", memory, part.First)
		require.EqualValues(t, channels, part.Compared)
		require.EqualValues(t, channels, part.Details.(*Chained).Channels)
		all := strings.Join(part.First, "\n")
		require.Contains(t, all, "record 1 begins with message 2, wanted 1")
		require.Contains(t, all, "after record 20: record 21 of MESSAGES_0: not an encoded MessageBatch")
	}
}

func TestChainFindsWhatIsPlanted(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Answered(10)
	const last = 10
	id := message.MakeID(1<<40, 0, 0)
	for i, plant := range []struct {
		do   func()
		want string
	}{
		{func() { h.forge(last+1, "c", message.Identity{ID: id, Seq: last + 2, WALSeq: 11}) }, "message_seq 12 of channel 2/c (partition_seq 11, message_id 4611686018427387904) does not follow message_seq 10"},
		{func() { h.forge(last+2, "c", message.Identity{ID: id, Seq: last + 3, WALSeq: 12}) }, "has a message_id that does not follow " + fmt.Sprint(int64(id))},
		{func() { h.forge(last+3, "c", message.Identity{ID: id + 1, Seq: last + 4, WALSeq: 9}) }, "is from record 9, place 0, which does not follow"},
		{func() { h.forge(last+4, "d", message.Identity{ID: id + 2, Seq: 1, WALSeq: 99}) }, "is in record 14, and is from record 99"},
		{func() {
			h.forge(last+5, "f", message.Identity{ID: message.MakeID(1<<40, 7, 9), Seq: 1, WALSeq: 103})
		}, "has a message_id of partition 7"},
		{func() { h.Put(testkit.MessageBatch(last+6, []byte("no message"))) }, "not an encoded Message"},
		{func() { h.forge(last+8, "g", message.Identity{ID: id + 1<<30, Seq: 1, WALSeq: 104}) }, "record 17 begins with message 18, wanted 17"},
		{func() { h.forge(last+8, "h", message.Identity{ID: id + 1<<31, Seq: 1, WALSeq: 105}) }, "record 18 begins with message 18, wanted 19"},
		{func() {
			stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
			require.NoError(t, err)
			require.NoError(t, stream.DeleteMsg(h.Ctx, 5))
		}, "records 5 to 5 are missing"},
		{func() { h.Put([]byte("no batch")) }, "after record 18: record 19 of MESSAGES_0: not an encoded MessageBatch"},
	} {
		plant.do()
		part := h.chain(1 << 20)
		require.GreaterOrEqual(t, part.Differences, uint64(i)+1)
		require.Contains(t, strings.Join(part.First, "\n"), plant.want)
	}
}

// watched is a JetStream that says each time that somebody has looked where a log ends.
type watched struct {
	jetstream.JetStream
	looked func(look int)
}

type watchedStream struct {
	jetstream.Stream
	looked func(look int)
	looks  int
}

func (w *watched) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := w.JetStream.Stream(ctx, name)
	return &watchedStream{Stream: stream, looked: w.looked}, err
}

func (w *watchedStream) Info(ctx context.Context, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	info, err := w.Stream.Info(ctx, opts...)
	w.looks++
	w.looked(w.looks)
	return info, err
}

// A tail that is lost while the log is read is no hole, whether it is back when that is noticed or not.
func TestChainOfALogThatLosesItsTail(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]bool{"lost": false, "back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			_, stop := h.Start()
			for i := range 4 {
				h.Ask(sequencertest.Send("c", strconv.Itoa(i)))
			}
			h.Messages(4)
			stop()
			var records [][]byte
			for seq := range uint64(4) {
				raw, err := storedRecord(h.Ctx, h.JS, 0, seq+1)
				require.NoError(t, err)
				records = append(records, raw.Data)
			}
			part, err := Chain(h.Ctx, &watched{h.JS, func(look int) {
				switch {
				case look == 1: // where the chain ends is known
					h.DeleteMessageLog()
					h.Ensure()
					h.Put(records[0])
					h.Put(records[1])
				case look == 2 && back: // the reader knows that there is nothing more
					h.Put(records[2])
					h.Put(records[3])
				}
			}}, 0, 1<<20, slog.New(slog.DiscardHandler))
			if !back {
				requireCannotTell(t, part, err, "the message log ends at record 2, and had 4")
				require.ErrorIs(t, err, messagelog.ErrTailLost)
				return
			}
			require.NoError(t, err)
			require.Zero(t, part.Differences, part.First)
			require.EqualValues(t, 4, part.Compared)
		})
	}
}

// Records at the end that are deleted are a hole.
func TestChainNamesAnEndThatIsDeleted(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Answered(4)
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(h.Ctx, 4))
	part := h.chain(1 << 20)
	require.EqualValues(t, 1, part.Differences)
	require.Contains(t, part.First[0], "records 4 to 4 are missing")
}
