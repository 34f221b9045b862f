package load

import (
	"context"
	"sync"
	"time"
)

// overrunMax is how long after its end an open loop still sends what was due before: a server that
// is too slow would otherwise be waited for without end.
const overrunMax = 30 * time.Second

// pace says when which send is due.
type pace struct {
	start time.Time
	rate  float64
	end   time.Time // no send is due from then on; zero for no end
	count uint64    // of sends; 0 for no limit

	mu   sync.Mutex
	next uint64
}

func newPace(cfg Config, start time.Time) *pace {
	p := &pace{start: start, rate: cfg.Rate, count: cfg.Count}
	if limit := cfg.limit(); limit > 0 {
		p.end = start.Add(cfg.WarmUp + limit)
	}
	return p
}

// take returns the next n sends: the number of the first, how many there are, and when they are due, or
// were. ok is false when there are no more.
func (p *pace) take(ctx context.Context, n int) (first uint64, taken int, due time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first = p.next
	taken = n
	if p.count > 0 {
		taken = int(min(uint64(n), p.count-first))
	}
	now := time.Now()
	due = now
	if p.rate > 0 {
		due = p.start.Add(p.dueAfter(first))
	}
	if taken == 0 || ctx.Err() != nil || p.over(now, due) {
		return 0, 0, due, false
	}
	p.next += uint64(taken)
	return first, taken, due, true
}

// dueAfter is exact for any number: a sum of intervals would drift.
func (p *pace) dueAfter(n uint64) time.Duration {
	return time.Duration(float64(n) / p.rate * float64(time.Second))
}

func (p *pace) over(now, due time.Time) bool {
	return !p.end.IsZero() && (!due.Before(p.end) || now.Sub(p.end) > overrunMax)
}

// missed is how many sends were due and never begun, once no worker takes any more.
func (p *pace) missed(at time.Time) uint64 {
	if p.rate == 0 {
		return 0
	}
	if !p.end.IsZero() && at.After(p.end) {
		at = p.end
	}
	due := uint64(max(at.Sub(p.start).Seconds(), 0) * p.rate)
	if p.count > 0 {
		due = min(due, p.count)
	}
	return due - min(due, p.next)
}
