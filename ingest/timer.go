package ingest

import (
	"sync"
	"time"
)

// timerPool recycles timers. Since Go 1.23 a timer that is stopped or reset sends
// nothing that was set before, so a recycled one cannot fire for its former user.
type timerPool struct{ pool sync.Pool }

func (p *timerPool) get(after time.Duration) *time.Timer {
	if t, ok := p.pool.Get().(*time.Timer); ok {
		t.Reset(after)
		return t
	}
	return time.NewTimer(after)
}

func (p *timerPool) put(t *time.Timer) {
	t.Stop()
	p.pool.Put(t)
}
