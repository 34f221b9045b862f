package lifecycle

import (
	"sync"
	"time"
)

const (
	// repeatFirst and repeatMost are the pauses of a [Repeated] between the first two lines, and the longest.
	repeatFirst = 10 * time.Second
	repeatMost  = 10 * time.Minute
	// repeatQuiet: what has not happened for this long, nor for a pause, is new when it happens again.
	repeatQuiet = time.Minute
)

// Repeated tells when to log something that may happen again and again, such as a fault that lasts: the first time, and
// then after pauses that grow from 10 seconds to 10 minutes. The zero value is ready. Any goroutine may use it.
type Repeated struct {
	mu      sync.Mutex
	what    string
	seen    time.Time // when it happened last
	logged  time.Time
	pause   time.Duration
	skipped int
}

// Due reports whether to log now that what happened, and how many times it has said no since it last said yes. Something
// else than the last time is logged at once.
func (r *Repeated) Due(what string) (skipped int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	fresh := r.seen.IsZero() || what != r.what || now.Sub(r.seen) > max(r.pause, repeatQuiet)
	r.seen, r.what = now, what
	switch {
	case fresh:
		r.pause, r.skipped = repeatFirst, 0
	case now.Sub(r.logged) < r.pause:
		r.skipped++
		return 0, false
	default:
		r.pause = min(2*r.pause, repeatMost)
	}
	skipped = r.skipped
	r.logged, r.skipped = now, 0
	return skipped, true
}

// Over notes that it is over, and reports whether it had been logged: the next time is a new one.
func (r *Repeated) Over() (was bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was = !r.seen.IsZero()
	r.what, r.seen, r.skipped = "", time.Time{}, 0
	return was
}
