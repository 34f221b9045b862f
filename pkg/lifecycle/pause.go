package lifecycle

import (
	"context"
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
