package runner

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 5 * time.Second
)

// Pause waits before try attempt+1, doubling up to backoffMax, with jitter so
// that partitions do not try in step. It says false where ctx ended first.
func Pause(ctx context.Context, attempt int) bool {
	most := min(backoffMin<<min(attempt, 10), backoffMax)
	timer := time.NewTimer(most/2 + rand.N(most/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
