// Package memory bounds the memory that requests share, and recycles their buffers.
package memory

import (
	"sync"
	"sync/atomic"
)

// budget is memory that all requests share.
type Budget struct{ free atomic.Int64 }

func NewBudget(bytes int64) *Budget {
	b := new(Budget)
	b.free.Store(bytes)
	return b
}

// left is what may still be taken.
func (b *Budget) Left() int64 { return b.free.Load() }

func (b *Budget) Take(n int64) bool {
	if b.free.Add(-n) < 0 {
		b.free.Add(n)
		return false
	}
	return true
}

func (b *Budget) GiveBack(n int64) {
	if n != 0 {
		b.free.Add(n)
	}
}

// bytesKept is how large a buffer may have grown to be recycled: twice what a group commit holds.
const bytesKept = 1 << 20

// bytesPool recycles buffers: what batches are encoded in, bulks are read into and answers are written in.
type Buffers struct{ pool sync.Pool }

func NewBuffers(first int) *Buffers {
	p := &Buffers{}
	p.pool.New = func() any {
		b := make([]byte, 0, first)
		return &b
	}
	return p
}

func (p *Buffers) Get() *[]byte { return p.pool.Get().(*[]byte) } //nolint:forcetypeassert // the pool holds nothing else

func (p *Buffers) Put(b *[]byte) {
	if cap(*b) <= bytesKept {
		*b = (*b)[:0]
		p.pool.Put(b)
	}
}
