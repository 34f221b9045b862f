package sequencer

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

func (h *harness) chain(memoryBytesMax int64) *audit.Part {
	h.t.Helper()
	part, err := Chain(h.ctx, h.js, 0, memoryBytesMax, slog.New(slog.DiscardHandler))
	require.NoError(h.t, err)
	return part
}

// forge puts a message into the log by a foreign hand.
func (h *harness) forge(channel string, identity message.Identity, subject string) {
	h.t.Helper()
	encoded, err := send(channel, "forged").MarshalVT()
	require.NoError(h.t, err)
	_, err = h.js.Publish(h.ctx, subject, message.AppendMessage(nil, encoded, identity))
	require.NoError(h.t, err)
}

func TestChainIsWholeHoweverOftenItIsRead(t *testing.T) {
	t.Parallel()
	h := setup(t)
	require.Zero(t, h.chain(1<<20).Compared, "an empty log")
	h.start()
	for i := range 60 {
		h.ask(send("a"+strconv.Itoa(i%20), strconv.Itoa(i)), send("b", strconv.Itoa(i)))
	}
	h.messages(120)
	for memory, passes := range map[int64]int{1 << 20: 1, 5 * chainChannelBytes: 5} {
		part := h.chain(memory)
		require.Zero(t, part.Differences, part.First)
		require.EqualValues(t, 120, part.Compared)
		require.Equal(t, passes, part.Details.(*Chained).Passes)
	}
	// Retention takes the beginning: the channels may begin anywhere then.
	stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(h.ctx, jetstream.WithPurgeSequence(51)))
	part := h.chain(1 << 20)
	require.Zero(t, part.Differences, part.First)
	require.EqualValues(t, 70, part.Compared)
}

func TestChainFindsWhatIsPlanted(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	for i := range 10 {
		h.ask(send("c", strconv.Itoa(i)))
	}
	h.messages(10)
	stop()
	const last = 10
	id := message.MakeID(1<<40, 0, 0)
	for i, plant := range []struct {
		do   func()
		want string
	}{
		{func() { h.forge("c", message.Identity{ID: id, Seq: last + 2, WALSeq: 100}, "messages.0.2.c") }, "message_seq 12 in its channel messages.0.2.c, which does not follow 10"},
		{func() { h.forge("c", message.Identity{ID: id, Seq: last + 3, WALSeq: 101}, "messages.0.2.c") }, "which does not follow " + fmt.Sprint(int64(id))},
		{func() { h.forge("c", message.Identity{ID: id + 1, Seq: last + 4, WALSeq: 99}, "messages.0.2.c") }, "is from record 99"},
		{func() { h.forge("d", message.Identity{ID: id + 2, Seq: 1, WALSeq: 102}, "messages.0.2.e") }, "wanted messages.0.2.d"},
		{func() {
			h.forge("f", message.Identity{ID: message.MakeID(1<<40, 7, 9), Seq: 1, WALSeq: 103}, "messages.0.2.f")
		}, "is of partition 7"},
		{func() { _, _ = h.js.Publish(h.ctx, "messages.0.2.c", []byte("no message")) }, "not an encoded Message"},
		{func() {
			stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
			require.NoError(t, err)
			require.NoError(t, stream.DeleteMsg(h.ctx, 5))
		}, "messages 5 to 5 are missing"},
	} {
		plant.do()
		part := h.chain(1 << 20)
		require.GreaterOrEqual(t, part.Differences, uint64(i)+1)
		require.Contains(t, strings.Join(part.First, "\n"), plant.want)
	}
}
