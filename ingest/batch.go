package ingest

import (
	"sync"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"

	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// batch is one group commit: the encoded sends of many requests, and the place
// where those requests wait. It goes gathering → in flight → answered or failed.
//
// A batch is never used twice. Whoever waits holds on to the batch itself and is
// woken by its done channel, so an answer that comes too late finds nobody, and
// can never wake a request that it was not meant for.
type batch struct {
	no     uint64  // its number in the partition, from 1; 0 until it is in flight
	bytes  []byte  // the encoded SendBatch; gone once published
	buffer *[]byte // where bytes goes back to
	sends  int

	ordered bool // it holds sends of ordered flights (partition.inOrder)

	samples tracing.Samples // the sends that are traced
	span    *tracing.Span   // of the commit, from when it is in flight; nil where it is not traced

	gathered  time.Time // when its first send came
	published time.Time

	// Under the partition's lock.
	acknowledged bool
	left         int  // requests that no longer wait
	over         bool // published, and no longer asked for

	// Written before done is closed, read after.
	done    chan struct{}
	answers []answer
	failure outcome // outcomeAccepted: none
}

// settle ends the wait of all. It is called once, by whoever took the batch out of
// the partition.
func (b *batch) settle(answers []answer, failure outcome) {
	b.answers, b.failure = answers, failure
	close(b.done)
	if b.span != nil {
		b.endSpan(failure)
	}
}

// endSpan ends the span of a commit that is over, unless it ended when the log had it.
func (b *batch) endSpan(failure outcome) {
	if failure != outcomeAccepted {
		b.span.Fail(failure.spec().code)
	}
	b.span.End()
}

// derivedBytesMax is how large the record of the message log can be that the sequencer makes of the batch; it must pass through
// the same server. A message is longer than its send by the identity, and its length by one byte.
func (b *batch) derivedBytesMax() int { return len(b.bytes) + b.sends*(message.IdentitySizeMax+1) }

const (
	batchBytesFirst = 4 << 10
	batchBytesKept  = 2 * batchBytesMax
)

// bytesPool recycles buffers: what batches are encoded in, bulks are read into and answers are written in.
type bytesPool struct{ pool sync.Pool }

func newBytesPool(first int) *bytesPool {
	p := &bytesPool{}
	p.pool.New = func() any {
		b := make([]byte, 0, first)
		return &b
	}
	return p
}

func (p *bytesPool) get() *[]byte { return p.pool.Get().(*[]byte) } //nolint:forcetypeassert // the pool holds nothing else

func (p *bytesPool) put(b *[]byte) {
	if cap(*b) <= batchBytesKept {
		*b = (*b)[:0]
		p.pool.Put(b)
	}
}
