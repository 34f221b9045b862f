package groupcommit

import (
	"context"
	"sync"
	"time"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// batch is one group commit: the encoded sends of many requests, and what those requests wait on. Its states are described
// above the type partition.
//
// A batch is never reused. Each waiter holds the batch itself and is woken by its done channel, so a late answer finds no
// waiter and cannot wake a request that it was not meant for.
type batch struct {
	no     uint64  // its number in the partition, from 1; 0 until it is in flight
	bytes  []byte  // the encoded SendBatch; gone once published
	buffer *[]byte // bytes' pooled buffer, returned after the publish
	sends  int

	samples tracing.Samples // the traced sends
	span    *tracing.Span   // of the commit, set when it is in flight; nil if it is not traced

	gathered  time.Time // when its first send was added
	published time.Time

	// Under the partition's lock.
	acknowledged bool
	left         int  // requests that have stopped waiting
	over         bool // published, and no longer tracked

	// Written before done is closed, read after.
	done    chan struct{}
	answers []Answer
	became  outcome.Outcome // outcomeAccepted: all sends have an answer
}

// settle wakes all waiters. It is called once, by the caller that removed the batch from the partition.
func (b *batch) settle(answers []Answer, became outcome.Outcome) {
	b.answers, b.became = answers, became
	close(b.done)
	if b.span != nil {
		b.endSpan(became)
	}
}

// endSpan ends the span of a commit that is over, unless the acknowledgement ended it.
func (b *batch) endSpan(became outcome.Outcome) {
	if became != outcome.Accepted {
		b.span.Fail(became.Spec().Code)
	}
	b.span.End()
}

// derivedBytesMax bounds the size of the message-log record that the sequencer derives from the batch, which must pass
// through the same server. A message is longer than its send by its identity, and its length prefix by one byte.
func (b *batch) derivedBytesMax() int { return len(b.bytes) + b.sends*(message.IdentitySizeMax+1) }

const batchBytesFirst = 4 << 10

// Ticket is a request's place in a batch.
type Ticket struct {
	partition *partition
	batch     *batch
	index     int
}

// patience is how long a request waits before it checks whether its client is still connected, a check that costs more
// than most answers take.
const patience = 250 * time.Millisecond

// Wait waits for the answer to a ticket. ctx is the request's own context.
func (t Ticket) Wait(ctx context.Context, timeout time.Duration) (Answer, outcome.Outcome) {
	b := t.batch
	if t.Settled() { // common under load, and saves the timer
		return t.Result()
	}
	timers := t.partition.timers
	timer := timers.get(min(patience, timeout))
	defer timers.put(timer)
	select {
	case <-b.done:
		return t.Result()
	case <-timer.C:
	}
	timer.Reset(timeout - min(patience, timeout))
	select {
	case <-b.done:
		return t.Result()
	case <-timer.C:
		return Answer{}, t.partition.leave(b, false)
	case <-ctx.Done():
		t.partition.leave(b, true)
		return Answer{}, outcome.ClientGone
	}
}

// Taken reports whether the send was accepted into a batch; the ticket of a refused send was not.
func (t Ticket) Taken() bool { return t.batch != nil }

// Leave gives up the ticket: the caller no longer waits for its answer.
func (t Ticket) Leave() { t.partition.leave(t.batch, true) }

// Settled reports whether the result is available.
func (t Ticket) Settled() bool {
	select {
	case <-t.batch.done:
		return true
	default:
		return false
	}
}

// Result returns the outcome of the send. The ticket must be settled.
func (t Ticket) Result() (Answer, outcome.Outcome) {
	if t.batch.became != outcome.Accepted {
		return Answer{}, t.batch.became
	}
	a := t.batch.answers[t.index]
	switch a.Outcome {
	case message.Outcome_OUTCOME_DUPLICATE:
		return a, outcome.Duplicate
	case message.Outcome_OUTCOME_CONFLICT:
		return a, outcome.Conflict
	default:
		return a, outcome.Accepted
	}
}

// leave records that a request no longer waits. A published batch without waiters is dropped, so that a sequencer that
// never answers costs no memory. gone means that the client has disconnected too.
func (p *partition) leave(b *batch, gone bool) outcome.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	b.left++
	if b.left == b.sends && b.no != 0 && p.inFlight != b {
		p.forget(b)
	}
	became := outcome.Unknown
	if b.acknowledged {
		became = outcome.NoAnswer
	}
	if !gone {
		p.noteFailure(became)
	}
	return became
}

// timerPool recycles timers. Since Go 1.23 a stopped or reset timer delivers no stale value, so a recycled timer cannot
// fire for its previous user.
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
