package permission

import (
	"context"
	"sync"
)

// progress is the position of the cache: the stream_seq of the last message applied. Goroutines can wait for it. It is
// never ahead of the cache, since a new watch starts from it.
type progress struct {
	mu      sync.Mutex
	applied uint64
	waiting []waiter
}

type waiter struct {
	until uint64
	there chan struct{}
}

func (p *progress) now() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied
}

// advance records that everything up to a stream_seq has been applied.
func (p *progress) advance(to uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if to <= p.applied {
		return
	}
	p.applied = to
	left := p.waiting[:0]
	for _, w := range p.waiting {
		if w.until <= to {
			close(w.there)
		} else {
			left = append(left, w)
		}
	}
	clear(p.waiting[len(left):])
	p.waiting = left
}

// reset starts again from the beginning. Waiters keep waiting.
func (p *progress) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.applied = 0
}

// await waits until everything up to a stream_seq has been applied, or ctx ends.
func (p *progress) await(ctx context.Context, until uint64) error {
	p.mu.Lock()
	if p.applied >= until {
		p.mu.Unlock()
		return nil
	}
	w := waiter{until: until, there: make(chan struct{})}
	p.waiting = append(p.waiting, w)
	p.mu.Unlock()
	select {
	case <-w.there:
		return nil
	case <-ctx.Done():
		p.forget(w)
		return ctx.Err()
	}
}

func (p *progress) forget(gone waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, w := range p.waiting {
		if w == gone {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			return
		}
	}
}
