package testkit

import (
	"context"
	"testing"
	"time"
)

// pollInterval is the pause between two questions to another process.
const pollInterval = 20 * time.Millisecond

// WaitFor asks check again and again until it returns nil, and fails the test with check's last
// error once the timeout is over. It is meant for other processes, which have no channel to wait
// on; inside one process wait for a signal.
func WaitFor(t testing.TB, timeout time.Duration, what string, check func(ctx context.Context) error) {
	t.Helper()
	if err := poll(t.Context(), timeout, nil, check); err != nil {
		t.Fatalf("waited %s for %s: %v", timeout, what, err)
	}
}

// Await is WaitFor for a test that expects a timeout: it returns check's last error.
func Await(ctx context.Context, timeout time.Duration, check func(ctx context.Context) error) error {
	return poll(ctx, timeout, nil, check)
}

// poll asks check until it returns nil, the time is up, ctx ends, or gone is closed. It returns
// check's last error, or ctx's if check was never answered.
func poll(ctx context.Context, timeout time.Duration, gone <-chan struct{}, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	pause := time.NewTicker(pollInterval)
	defer pause.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // not the error of a call that the end of the time cut short
		}
		select {
		case <-ctx.Done():
			return last
		case <-gone:
			return last
		case <-pause.C:
		}
	}
}
