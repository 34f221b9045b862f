package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"
	"github.com/sendhouse/sendhouse/sequencer/natslog"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/replay"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// harness adds what the tests of this package ask.
type harness struct{ *sequencertest.Harness }

func setup(t testing.TB) *harness {
	t.Helper()
	return &harness{sequencertest.Setup(t)}
}

// heap is a sink that keeps what it is given. At batch dieAt it dies, without having taken it.
type heap struct {
	records []messagelog.Entry
	dieAt   int
}

var errDied = errors.New("died")

func (*heap) Name() string                                              { return "heap" }
func (*heap) BatchMax() int                                             { return 7 }
func (*heap) Begin(context.Context) (uint64, error)                     { return 0, nil }
func (*heap) Restore(context.Context, uint64) error                     { return nil }
func (*heap) End(_ context.Context, _ int, last uint64) (uint64, error) { return last, nil }
func (s *heap) Put(_ context.Context, b []messagelog.Entry) (uint64, error) {
	if s.dieAt--; s.dieAt == 0 {
		return 0, errDied
	}
	for _, r := range b {
		r.Stored = time.Time{} // the one thing that the write-ahead log cannot say
		s.records = append(s.records, r)
	}
	return 0, nil
}

// replay collects what a source has, and returns what was printed meanwhile.
func (h *harness) replay(source replay.Source, sink *heap, args ...string) (string, error) {
	h.T.Helper()
	var cfg replay.Config
	_, err := config.Parse(args, &cfg)
	require.NoError(h.T, err)
	var said strings.Builder
	_, err = replay.Run(h.Ctx, cfg, source, 1, sink, &said)
	return said.String(), err
}

func (h *harness) fromWAL() replay.Source {
	return NewSource(h.JS, h.Deployment, slog.New(slog.DiscardHandler))
}

func (h *harness) mustReplay(source replay.Source, args ...string) []messagelog.Entry {
	h.T.Helper()
	var sink heap
	_, err := h.replay(source, &sink, args...)
	require.NoError(h.T, err, "%v", args)
	return sink.records
}

// mixed sends what the fold treats in every way, n times, and gives how many messages it becomes.
func (h *harness) mixed(prefix string, n int) uint64 {
	h.T.Helper()
	for i := range n {
		no := fmt.Sprint(prefix, i)
		twin, live, command := sequencertest.Send("a", no), sequencertest.Send("b", no+"live"), sequencertest.Send("a"+message.CommandSuffix, no)
		live.NoPersist, command.SyncOnce = true, true
		h.Ask(sequencertest.Send("a", no), twin, live, command, sequencertest.Send("b.c d", no))
	}
	return uint64(3 * n)
}

func TestReplayOfTheWriteAheadLogIsThatOfTheMessageLog(t *testing.T) {
	t.Parallel()
	h := setup(t)
	require.Empty(t, h.mustReplay(h.fromWAL()), "an empty log")
	_, stop := h.Start()
	n := h.mixed("x", 40)
	_, err := h.JS.Publish(h.Ctx, topology.WALSubject(0), []byte("garbage"))
	require.NoError(t, err)
	n += h.mixed("y", 40)
	h.Messages(n)
	stop()

	log := replay.NewMessageLog(h.JS)
	all := h.mustReplay(log)
	require.Len(t, all, int(n))
	at := func(i int) string { return message.ID(view(t, all[i]).GetMessageId()).Time().Format(time.RFC3339Nano) }
	selections := [][]string{
		{},
		{"--from-partition-seq=100"},
		{"--from-partition-seq=1000"},
		{"--from=" + at(0)},
		{"--from=" + at(50)},
		{"--from=" + at(50), "--until=" + at(200)},
		{"--until=" + at(200)},
		{"--until=" + at(0)},
		{"--from=2020-01-01", "--until=2020-01-02"},
		{"--from=2090-01-01"},
		{"--replay-channel=2/a"},
		{"--replay-channel=2/a", "--replay-channel=2/b.c d", "--from-partition-seq=17"},
		{"--replay-channel=2/unknown"},
		{"--replay-partition=0"},
		{"--replay-partition=1"},
		{"--replay-rate=10000"},
	}
	want := make([][]messagelog.Entry, len(selections))
	for i, args := range selections {
		want[i] = h.mustReplay(log, args...)
		require.Equal(t, want[i], h.mustReplay(h.fromWAL(), args...), "%v", args)
	}
	require.Len(t, want[10], int(n/3))
	require.Empty(t, want[8])

	h.DeleteMessageLog()
	for i, args := range selections {
		require.Equal(t, want[i], h.mustReplay(h.fromWAL(), args...), "%v, without the message log", args)
	}
	_, err = h.replay(log, new(heap))
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	require.ErrorContains(t, err, "--source=wal")
}

func view(t testing.TB, r messagelog.Entry) *message.Message {
	t.Helper()
	m := new(message.Message)
	require.NoError(t, m.UnmarshalVT(r.Data))
	return m
}

// trimmed returns a deployment whose write-ahead log was trimmed up to the older of two checkpoints, and all of
// its messages. The message log is gone.
func trimmed(t *testing.T) (h *harness, all []messagelog.Entry) {
	t.Helper()
	h = setup(t)
	at := time.Now()
	for round := range 3 {
		_, stop := h.Start()
		h.mixed(fmt.Sprint(round, "-"), 10)
		stop()
		k := h.Keeper(func() time.Time { return at })
		at = at.Add(h.Config.CheckpointInterval)
		require.True(t, k.Due(), "round %d", round)
		require.NoError(t, k.Checkpoint(h.Ctx))
		require.NoError(t, k.Trim(h.Ctx))
	}
	_, stop := h.Start()
	h.mixed("last-", 10)
	stop()
	all = h.mustReplay(replay.NewMessageLog(h.JS))
	require.Len(t, all, 120)
	h.DeleteMessageLog()
	return h, all
}

func TestReplayOfATrimmedWriteAheadLog(t *testing.T) {
	t.Parallel()
	h, all := trimmed(t)
	const first = 61 // of the 120, in four rounds of 30, after the older checkpoint

	var sink heap
	said, err := h.replay(h.fromWAL(), &sink)
	require.NoError(t, err)
	require.Equal(t, all[first-1:], sink.records)
	require.Contains(t, said, "partition 0: the write-ahead log begins at partition_seq 61")
	for _, from := range []int{61, 62, 90, 91, 92, 120, 121} { // the newer checkpoint is of message 90
		require.Equal(t, append([]messagelog.Entry(nil), all[from-1:]...), h.mustReplay(h.fromWAL(), fmt.Sprintf("--from-partition-seq=%d", from)))
	}
	require.Empty(t, h.mustReplay(h.fromWAL(), "--until=2025-01-01"), "the end lies before all that there is")

	// What is gone is refused, and the answer says what to ask for instead.
	for _, args := range []string{"--from-partition-seq=60", "--from-partition-seq=1", "--from=2026-01-01", "--from=" + message.ID(view(t, all[59]).GetMessageId()).Time().Format(time.RFC3339Nano)} {
		sink = heap{}
		_, err = h.replay(h.fromWAL(), &sink, args)
		require.ErrorIs(t, err, replay.ErrGone, args)
		require.Empty(t, sink.records)
		require.ErrorContains(t, err, "makes messages from partition_seq 61 on")
		advised := regexp.MustCompile(`--from[a-z-]*=[0-9TZ:.-]+`).FindAllString(err.Error(), -1)
		require.Len(t, advised, 2)
		for _, advice := range advised {
			require.Equal(t, all[first-1:], h.mustReplay(h.fromWAL(), advice), advice)
		}
	}

	// Where the newer checkpoint is damaged the older one serves.
	kept, err := h.Checkpoints().List(h.Ctx)
	require.NoError(t, err)
	_, err = h.Objects().PutBytes(h.Ctx, kept.Metas[0].Object, []byte("not a checkpoint"))
	require.NoError(t, err)
	require.Equal(t, all[99:], h.mustReplay(h.fromWAL(), "--from-partition-seq=100"))
	_, err = h.Objects().PutBytes(h.Ctx, kept.Metas[1].Object, []byte("nor is this"))
	require.NoError(t, err)
	_, err = h.replay(h.fromWAL(), new(heap))
	require.ErrorContains(t, err, "damaged checkpoint")
}

func TestReplayOfTheWriteAheadLogIsResumed(t *testing.T) {
	t.Parallel()
	h, all := trimmed(t)
	state := "--state=" + filepath.Join(t.TempDir(), "state")
	var got []messagelog.Entry
	died := 0
	for ; ; died++ {
		sink := heap{dieAt: 2}
		_, err := h.replay(h.fromWAL(), &sink, state)
		got = append(got, sink.records...)
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errDied)
	}
	require.Equal(t, 8, died, "60 messages, 7 at a time")
	require.Equal(t, all[60:], got)

	// What was trimmed before it was replayed is not passed over.
	state = "--state=" + filepath.Join(t.TempDir(), "state")
	_, err := h.replay(h.fromWAL(), &heap{dieAt: 2}, state)
	require.ErrorIs(t, err, errDied)
	store := h.Checkpoints()
	kept, err := store.List(h.Ctx)
	require.NoError(t, err)
	pointer, err := json.Marshal(map[string]any{"checkpoints": kept.Metas[:1]})
	require.NoError(t, err)
	pointers, err := h.JS.KeyValue(h.Ctx, topology.CheckpointPointerBucket)
	require.NoError(t, err)
	_, err = pointers.Put(h.Ctx, "p0", pointer)
	require.NoError(t, err)
	logs := natslog.New(h.JS, 0)
	require.NoError(t, logs.TrimWAL(h.Ctx, kept.Metas[0].WALSeq+1))
	_, err = h.replay(h.fromWAL(), new(heap), state)
	require.ErrorIs(t, err, replay.ErrGone)
	require.ErrorContains(t, err, "makes messages from partition_seq 91 on")

	// Nor is a log taken for another.
	require.NoError(t, h.JS.DeleteStream(h.Ctx, topology.WALStream(0)))
	h.Ensure()
	_, err = h.replay(h.fromWAL(), new(heap), state)
	require.ErrorContains(t, err, "the write-ahead log ends at record 0, and a checkpoint is of record")
}
