package chdb

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimiterLetsSoManyRunAndSoManyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limit := newLimiter(1, 5*time.Second)
		require.NoError(t, limit.acquire(t.Context()))

		// Four wait; the fifth is refused at once.
		answers := make(chan error, waitersPerSlot)
		for range waitersPerSlot {
			go func() { answers <- limit.acquire(t.Context()) }()
		}
		synctest.Wait()
		began := time.Now()
		require.True(t, isCode(limit.acquire(t.Context()), codeTooManyQueries))
		require.Zero(t, time.Since(began))

		// One gets the slot, the others have waited long enough after a while.
		limit.release()
		require.NoError(t, <-answers)
		for range waitersPerSlot - 1 {
			require.True(t, isCode(<-answers, codeTooManyQueries))
		}
		require.Equal(t, 5*time.Second, time.Since(began))

		// A client that goes waits no longer.
		ctx, cancel := context.WithCancel(t.Context())
		go func() { answers <- limit.acquire(ctx) }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-answers, context.Canceled)
		limit.release()
		require.NoError(t, limit.acquire(t.Context()))
	})
}
