package runner

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 5 * time.Second
)

// Pause waits before try attempt+1, doubling up to backoffMax, with jitter so
// that partitions do not try in step. It says false where ctx ended first.
func Pause(ctx context.Context, attempt int) bool {
	most := min(backoffMin<<min(attempt, 10), backoffMax)
	return lifecycle.Pause(ctx, most/2+rand.N(most/2)) == nil
}
