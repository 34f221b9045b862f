package lifecycle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		require.NoError(t, lifecycle.Pause(t.Context(), time.Minute))
		require.Equal(t, time.Minute, time.Since(begun))

		ended := errors.New("ended")
		ctx, end := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { end(ended) })
		require.ErrorIs(t, lifecycle.Pause(ctx, time.Minute), ended)
		require.Equal(t, time.Minute+time.Second, time.Since(begun))
	})
}

func TestBackoffDoublesUpToItsMax(t *testing.T) {
	t.Parallel()
	b := lifecycle.Backoff{Min: 50 * time.Millisecond, Max: 5 * time.Second}
	for failures, want := range map[int]time.Duration{
		0: 50 * time.Millisecond, 1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 7: 3200 * time.Millisecond, 8: 5 * time.Second, 1 << 40: 5 * time.Second,
	} {
		require.Equal(t, want, b.After(failures), "after %d failures", failures)
	}
	require.Equal(t, time.Second, lifecycle.Backoff{Min: 2 * time.Second, Max: time.Second}.After(1), "never more than Max")
}

func TestBackoffWaitsWithJitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := lifecycle.Backoff{Min: time.Second, Max: time.Minute}
		pauses := make(map[time.Duration]bool)
		for range 20 {
			began := time.Now()
			require.NoError(t, b.Wait(t.Context(), 3))
			took := time.Since(began)
			require.GreaterOrEqual(t, took, 2*time.Second)
			require.LessOrEqual(t, took, 4*time.Second)
			pauses[took] = true
		}
		require.Greater(t, len(pauses), 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("reason")
		cancel(reason)
		require.ErrorIs(t, b.Wait(ctx, 1), reason)
	})
}

func TestWakeKeepsOneSignal(t *testing.T) {
	t.Parallel()
	w := lifecycle.NewWake()
	require.Empty(t, w)
	w.Signal()
	w.Signal() // does not block
	require.Len(t, w, 1)
	<-w
	require.Empty(t, w)
	w.Signal()
	require.Len(t, w, 1)
}
