package chdb

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// waitersPerSlot is how many statements may wait for each that may run.
const waitersPerSlot = 4

// limiter lets so many statements run at once and so many more wait so long.
type limiter struct {
	slots      chan struct{}
	waiting    atomic.Int64
	waitingMax int64
	timeout    time.Duration
}

func newLimiter(slots int, timeout time.Duration) *limiter {
	return &limiter{slots: make(chan struct{}, slots), waitingMax: int64(slots) * waitersPerSlot, timeout: timeout}
}

// acquire takes a slot, which release returns. It fails with code 202 when too many wait already or the wait was too long.
func (l *limiter) acquire(ctx context.Context) error {
	select {
	case l.slots <- struct{}{}:
		return nil
	default:
	}
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > l.waitingMax {
		return l.refusal()
	}
	timer := time.NewTimer(l.timeout)
	defer timer.Stop()
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return l.refusal()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *limiter) release() { <-l.slots }

func (l *limiter) refusal() error {
	return &Exception{Code: codeTooManyQueries, Message: fmt.Sprintf(
		"Too many simultaneous queries. Maximum: %d. Try again later. (TOO_MANY_SIMULTANEOUS_QUERIES)", cap(l.slots))}
}
