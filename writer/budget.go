package writer

import "sync"

// budget is the memory that the batches of all partitions share.
type budget struct {
	most int64 // bytes

	mu      sync.Mutex
	free    int64
	changed chan struct{} // closed, and replaced, at each release
}

func newBudget(bytes int64) *budget {
	return &budget{most: bytes, free: bytes, changed: make(chan struct{})}
}

// take reserves n bytes if they are free. If not, it returns a channel that is closed at the next release.
func (b *budget) take(n int64) (ok bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false, b.changed
	}
	b.free -= n
	return true, nil
}

// force reserves n bytes even if they are not free.
func (b *budget) force(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free -= n
}

// release returns n bytes.
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

// taken returns the number of reserved bytes.
func (b *budget) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most - b.free
}
