// Package memory bounds the memory that requests share, and recycles their buffers.
package memory

import (
	"sync"
	"sync/atomic"
)

// Budget is a limited amount of memory that all requests share.
type Budget struct{ free atomic.Int64 }

// NewBudget returns a budget of bytes.
func NewBudget(bytes int64) *Budget {
	b := new(Budget)
	b.free.Store(bytes)
	return b
}

// Left returns the number of bytes that may still be taken.
func (b *Budget) Left() int64 { return b.free.Load() }

// Take takes n bytes, and reports false if fewer are left.
func (b *Budget) Take(n int64) bool {
	if b.free.Add(-n) < 0 {
		b.free.Add(n)
		return false
	}
	return true
}

// GiveBack returns n bytes that were taken.
func (b *Budget) GiveBack(n int64) {
	if n != 0 {
		b.free.Add(n)
	}
}

// bytesKept is the largest buffer that is recycled: twice the size of a group commit.
const bytesKept = 1 << 20

// Buffers recycles the buffers that batches are encoded in, bulks are read into and responses are written in.
type Buffers struct{ pool sync.Pool }

// NewBuffers returns a pool whose new buffers have a capacity of first bytes.
func NewBuffers(first int) *Buffers {
	p := &Buffers{}
	p.pool.New = func() any {
		b := make([]byte, 0, first)
		return &b
	}
	return p
}

// Get returns an empty buffer.
func (p *Buffers) Get() *[]byte { return p.pool.Get().(*[]byte) } //nolint:forcetypeassert // the pool holds nothing else

// Put recycles a buffer, which the caller must no longer use.
func (p *Buffers) Put(b *[]byte) {
	if cap(*b) <= bytesKept {
		*b = (*b)[:0]
		p.pool.Put(b)
	}
}
