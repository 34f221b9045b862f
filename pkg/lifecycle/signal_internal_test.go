package lifecycle

import (
	"context"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFirstSignalDrainsSecondExits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		first, second syscall.Signal
		code          int
	}{
		{syscall.SIGTERM, syscall.SIGTERM, 143},
		{syscall.SIGTERM, syscall.SIGINT, 130},
		{syscall.SIGINT, syscall.SIGINT, 130},
	} {
		t.Run(tt.first.String()+" "+tt.second.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				signals, exits := make(chan os.Signal, 2), make(chan int, 1)
				ctx, stop := watchSignals(t.Context(), slog.New(slog.DiscardHandler), signals, func(code int) { exits <- code })
				defer stop()

				signals <- tt.first
				<-ctx.Done()
				var cause *SignalError
				require.ErrorAs(t, context.Cause(ctx), &cause)
				require.Equal(t, tt.first, cause.Signal)

				<-time.After(SignalsAreOne - 1)
				signals <- tt.second // a supervisor that signals twice
				synctest.Wait()
				require.Empty(t, exits)

				<-time.After(1)
				signals <- tt.second
				require.Equal(t, tt.code, <-exits)
			})
		})
	}
}

func TestStopOfSignalsEndsTheContextAndTheWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
		ctx, stop := watchSignals(t.Context(), slog.New(slog.DiscardHandler), make(chan os.Signal), nil)
		stop()
		require.ErrorIs(t, ctx.Err(), context.Canceled)
		stop()
	})
}

// TestRealSignal sends SIGTERM to the test process itself.
//
//nolint:paralleltest // the signal reaches everyone who listens at that time
func TestRealSignal(t *testing.T) {
	ctx, stop := WithSignals(t.Context(), slog.New(slog.DiscardHandler))
	defer stop()
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	<-ctx.Done()
	require.ErrorContains(t, context.Cause(ctx), "terminated")
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	require.Equal(t, 130, (&SignalError{Signal: syscall.SIGINT}).ExitCode())
	require.Equal(t, 143, (&SignalError{Signal: syscall.SIGTERM}).ExitCode())
	require.Equal(t, 1, (&SignalError{Signal: plan9{}}).ExitCode())
}

// plan9 is a signal without a number.
type plan9 struct{}

func (plan9) String() string { return "hangup" }
func (plan9) Signal()        {}
