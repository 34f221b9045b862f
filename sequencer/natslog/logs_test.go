package natslog_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"
	"github.com/sendhouse/sendhouse/sequencer/natslog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// TestOutputTime: when the message log took a record is known for as long as it has it, and another one has another time.
func TestOutputTime(t *testing.T) {
	t.Parallel()
	h := sequencertest.Setup(t)
	logs, err := natslog.Open(h.NC, h.JS, 0, natslog.Options{Answers: h.NC})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, logs.Close()) })
	asked := func(seq uint64) (time.Time, bool) {
		at, ok, err := logs.OutputTime(h.Ctx, seq)
		require.NoError(t, err)
		return at, ok
	}
	_, ok := asked(1)
	require.False(t, ok)

	h.Answered(3)
	first, ok := asked(1)
	require.True(t, ok)
	last, ok := asked(3)
	require.True(t, ok)
	require.True(t, last.After(first))
	require.WithinDuration(t, time.Now(), last, sequencertest.Patience)
	_, ok = asked(4)
	require.False(t, ok)

	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(h.Ctx, jetstream.WithPurgeSequence(3)))
	at, ok := asked(2)
	require.True(t, ok)
	require.Zero(t, at)
	at, _ = asked(3)
	require.Equal(t, last, at)
	require.NoError(t, stream.Purge(h.Ctx))
	at, ok = asked(3)
	require.True(t, ok)
	require.Zero(t, at)

	h.DeleteMessageLog()
	_, _, err = logs.OutputTime(h.Ctx, 1)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	h.Ensure()
	_, ok = asked(1)
	require.False(t, ok)
	h.Start()
	require.Eventually(t, func() bool { at, ok = asked(3); return ok }, sequencertest.Patience, 10*time.Millisecond)
	require.True(t, at.After(last), "derived again")
}

// TestReadingAheadIsBounded: what is not taken stays in the server, and the client drops nothing, as it would if its buffer were full.
func TestReadingAheadIsBounded(t *testing.T) {
	t.Parallel()
	h := sequencertest.Setup(t)
	const records = 2000
	for n := range records {
		data, err := message.AppendSend(nil, sequencertest.Send("c", strconv.Itoa(n)))
		require.NoError(t, err)
		_, err = h.JS.PublishAsync(topology.WALSubject(0), data, jetstream.WithStallWait(time.Minute))
		require.NoError(t, err)
	}
	select {
	case <-h.JS.PublishAsyncComplete():
	case <-h.Ctx.Done():
		require.FailNow(t, "the log is not written")
	}
	dropped := make(chan error, records)
	h.NC.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { dropped <- err })
	logs, err := natslog.Open(h.NC, h.JS, 0, natslog.Options{Answers: h.NC})
	require.NoError(t, err)
	came := h.NC.Stats().InMsgs
	reader, err := logs.ReadWAL(h.Ctx, 1)
	require.NoError(t, err)
	defer reader.Stop()
	seq := uint64(0)
	read := func(last uint64) {
		for seq < last {
			record, err := reader.Next(h.Ctx)
			require.NoError(t, err)
			require.Equal(t, seq+1, record.StreamSeq)
			seq++
		}
	}
	const ahead = 100 // 64, and the server's answers
	for last := uint64(100); last <= records; last += 100 {
		read(last)
		require.NoError(t, h.NC.Flush())
		require.Less(t, h.NC.Stats().InMsgs-came, last+ahead)
	}
	require.Empty(t, dropped)
}
