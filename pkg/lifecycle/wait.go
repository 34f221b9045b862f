package lifecycle

import (
	"context"
	"math/rand/v2"
	"time"
)

// Pause waits for a time. If ctx ends first it returns at once, with the cause.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Backoff bounds the pauses between the attempts of an operation that fails: Min after the first failure, twice as long
// after each further one, at most Max.
type Backoff struct{ Min, Max time.Duration }

// After returns the pause after a number of failures in a row.
func (b Backoff) After(failures int) time.Duration {
	doublings := max(failures-1, 0)
	if doublings > 32 || b.Min > b.Max>>doublings {
		return b.Max
	}
	return b.Min << doublings
}

// Random returns between half and all of After(failures), at random, so that what failed at the same time does not retry at
// the same time.
func (b Backoff) Random(failures int) time.Duration {
	longest := b.After(failures)
	return longest/2 + rand.N(longest/2+1)
}

// Wait pauses for Random(failures). If ctx ends first it returns at once, with the cause.
func (b Backoff) Wait(ctx context.Context, failures int) error { return Pause(ctx, b.Random(failures)) }

// Wake tells one goroutine that there is something to do. Signals that come before it receives from the channel count as
// one, so it looks at everything that there is to do after each.
type Wake chan struct{}

// NewWake makes one without a signal.
func NewWake() Wake { return make(Wake, 1) }

// Signal never blocks.
func (w Wake) Signal() {
	select {
	case w <- struct{}{}:
	default: // one is pending
	}
}
