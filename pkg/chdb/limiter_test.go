package chdb

import (
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"syscall"
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

// A client that comes when all slots are taken receives an error that says when to retry.
func TestRefusalTellsWhenToComeAgain(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	newResponder(w, &Engine{version: "1.2"}, "mine").fail(newLimiter(3, time.Second).refusal())
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Equal(t, "202", w.Header().Get("X-ClickHouse-Exception-Code"))
	require.Equal(t, "Code: 202. DB::Exception: Too many simultaneous queries. Maximum: 3. Try again later. "+
		"(TOO_MANY_SIMULTANEOUS_QUERIES) (version 1.2)\n", w.Body.String())
}

// Errors of the disk have the codes that a server uses, so that a writer knows to wait and try again.
func TestStorageErrors(t *testing.T) {
	t.Parallel()
	full := storageError(&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	require.True(t, isCode(full, codeNotEnoughSpace), "%v", full)
	require.True(t, isCode(storageError(fs.ErrPermission), codeCannotWrite))
	client := &Exception{Code: codeNetworkError}
	require.Equal(t, client, storageError(client))
}
