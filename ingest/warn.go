package ingest

import (
	"sync"
	"time"
)

// warnInterval is how often one partition repeats itself. A log that refuses would
// otherwise fill ours with a line for every group commit.
const warnInterval = time.Second

// warner says when something that may happen very often is to be logged: the first
// time in each interval.
type warner struct {
	interval time.Duration // 0 means warnInterval

	mu      sync.Mutex
	last    time.Time
	skipped int
}

// due says whether to log now, and how many times it has said no since it last did.
func (w *warner) due() (skipped int, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	interval := w.interval
	if interval == 0 {
		interval = warnInterval
	}
	if !w.last.IsZero() && now.Sub(w.last) < interval {
		w.skipped++
		return 0, false
	}
	skipped = w.skipped
	w.last, w.skipped = now, 0
	return skipped, true
}
