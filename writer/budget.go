package writer

import "sync"

// budget is the memory that the batches of all partitions share, in bytes.
type budget struct {
	most int64

	mu      sync.Mutex
	free    int64
	changed chan struct{} // closed, and replaced, at each release
}

func newBudget(bytes int64) *budget {
	return &budget{most: bytes, free: bytes, changed: make(chan struct{})}
}

// take takes n bytes if they are free. Where not, the channel is closed when it is worth to ask again.
func (b *budget) take(n int64) (ok bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false, b.changed
	}
	b.free -= n
	return true, nil
}

// force takes n bytes whether they are free or not.
func (b *budget) force(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free -= n
}

// release gives bytes back.
func (b *budget) release(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	close(b.changed)
	b.changed = make(chan struct{})
}

// taken is how many bytes are in use.
func (b *budget) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most - b.free
}
