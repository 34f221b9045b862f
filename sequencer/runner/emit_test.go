package runner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// run runs a partition over logs, for as long as the test is in its bubble. It says where it
// stops by itself.
func run(t *testing.T, outboxMessagesMax int, ackDelay time.Duration) (*brokenLogs, *Partition, <-chan error) {
	t.Helper()
	data, err := message.AppendSend(nil, &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", Payload: []byte("payload")})
	require.NoError(t, err)
	logs := &brokenLogs{data: data, delay: ackDelay}
	p := newPartition(logs, &claimedCheckpoints{}, outboxMessagesMax)
	ctx, cancel := context.WithCancel(t.Context())
	stopped, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		stopped <- p.Run(ctx, time.Second)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return logs, p, stopped
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestNoWordIsNoticedWhileSendsComeIn: each record that is folded wakes emitting, and what is in flight is timed out all the
// same, again and again.
func TestNoWordIsNoticedWhileSendsComeIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs, p, stopped := run(t, 1<<16, 0)
		pass(10*time.Second + time.Second/2)
		require.EqualValues(t, 10, p.Progress().Emitted)
		require.Zero(t, testutil.ToFloat64(p.Metrics.resumed))
		logs.set(true, nil)
		pass(time.Second/2 + testAckTimeout)
		require.Zero(t, testutil.ToFloat64(p.Metrics.resumed))
		pass(time.Second / 2)
		require.InDelta(t, 1, testutil.ToFloat64(p.Metrics.resumed), 0)
		pass(time.Hour)
		require.EqualValues(t, 10, p.Progress().Emitted)
		require.Greater(t, testutil.ToFloat64(p.Metrics.resumed), float64(time.Hour/(testAckTimeout+2*resumePauseMax)))

		logs.set(false, nil)
		pass(testAckTimeout + resumePauseMax + time.Second)
		at := p.Progress()
		require.Equal(t, at.WALSeq, at.Emitted)
		require.Empty(t, stopped)
	})
}

// TestSlowAcknowledgementsAreNoSilence: the time-out is for progress and not for all that is in flight.
func TestSlowAcknowledgementsAreNoSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, p, _ := run(t, 1<<16, testAckTimeout-time.Second/2)
		pass(time.Hour)
		require.Zero(t, testutil.ToFloat64(p.Metrics.resumed))
		at := p.Progress()
		require.LessOrEqual(t, at.WALSeq-at.Emitted, uint64(chunksInFlight))
	})
}

// TestRefusalThatLastsIsTriedEverMoreSlowly: the tail can be read, and no write is taken.
func TestRefusalThatLastsIsTriedEverMoreSlowly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const outboxMessagesMax = 32
		logs, p, stopped := run(t, outboxMessagesMax, 0)
		pass(10*time.Second + time.Second/2)
		logs.write(1000) // more than the outbox takes
		logs.set(false, errors.New("maximum bytes exceeded"))
		pass(5 * time.Minute)
		require.Empty(t, stopped, "folding waits for the message log, not for its reader")
		require.EqualValues(t, 10, p.Progress().Emitted)
		tails, appends := logs.asked()
		pass(time.Minute)
		tailsLater, appendsLater := logs.asked()
		require.Less(t, tailsLater-tails, 40, "once in 2.5 s at most, and housekeeping once in 5 s")
		require.Less(t, appendsLater-appends, 30*(outboxMessagesMax+1))

		logs.set(false, nil)
		pass(resumePauseMax + time.Second)
		require.GreaterOrEqual(t, p.Progress().Emitted, uint64(10+outboxMessagesMax))
		pass(time.Minute)
		at := p.Progress()
		require.Equal(t, at.WALSeq, at.Emitted)

		// What is refused next is soon tried again.
		logs.set(false, errors.New("no leader"))
		pass(time.Second)
		logs.set(false, nil)
		pass(time.Second)
		at = p.Progress()
		require.Equal(t, at.WALSeq, at.Emitted)
	})
}
