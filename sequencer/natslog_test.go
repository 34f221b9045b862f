package sequencer

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// TestOutputTime: when the message log took a record is known for as long as it has it, and another one has another time.
func TestOutputTime(t *testing.T) {
	t.Parallel()
	h := setup(t)
	logs, err := openLogs(h.nc, h.nc, h.js, 0, false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, logs.close()) })
	asked := func(seq uint64) (time.Time, bool) {
		at, ok, err := logs.OutputTime(h.ctx, seq)
		require.NoError(t, err)
		return at, ok
	}
	_, ok := asked(1)
	require.False(t, ok)

	h.folded(3)
	first, ok := asked(1)
	require.True(t, ok)
	last, ok := asked(3)
	require.True(t, ok)
	require.True(t, last.After(first))
	require.WithinDuration(t, time.Now(), last, patience)
	_, ok = asked(4)
	require.False(t, ok)

	stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(h.ctx, jetstream.WithPurgeSequence(3)))
	at, ok := asked(2)
	require.True(t, ok)
	require.Zero(t, at)
	at, _ = asked(3)
	require.Equal(t, last, at)
	require.NoError(t, stream.Purge(h.ctx))
	at, ok = asked(3)
	require.True(t, ok)
	require.Zero(t, at)

	h.deleteMessageLog()
	_, _, err = logs.OutputTime(h.ctx, 1)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	h.ensure()
	_, ok = asked(1)
	require.False(t, ok)
	h.start()
	require.Eventually(t, func() bool { at, ok = asked(3); return ok }, patience, 10*time.Millisecond)
	require.True(t, at.After(last), "derived again")
}
