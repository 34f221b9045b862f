package groupcommit

import (
	"context"
	"sync"
	"time"

	"github.com/sendhouse/sendhouse/ingest/outcome"
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
	answers []Answer
	became  outcome.Outcome // outcomeAccepted: none
}

// settle ends the wait of all. It is called once, by whoever took the batch out of
// the partition.
func (b *batch) settle(answers []Answer, became outcome.Outcome) {
	b.answers, b.became = answers, became
	close(b.done)
	if b.span != nil {
		b.endSpan(became)
	}
}

// endSpan ends the span of a commit that is over, unless it ended when the log had it.
func (b *batch) endSpan(became outcome.Outcome) {
	if became != outcome.Accepted {
		b.span.Fail(became.Spec().Code)
	}
	b.span.End()
}

// derivedBytesMax is how large the record of the message log can be that the sequencer makes of the batch; it must pass through
// the same server. A message is longer than its send by the identity, and its length by one byte.
func (b *batch) derivedBytesMax() int { return len(b.bytes) + b.sends*(message.IdentitySizeMax+1) }

const batchBytesFirst = 4 << 10

// Ticket is a request's place in a batch.
type Ticket struct {
	partition *partition
	batch     *batch
	index     int
}

// patience is how long a request waits before it asks whether its client is still there, which costs
// more than most answers do.
const patience = 250 * time.Millisecond

// Wait waits for the answer to a ticket. ctx is the request's own.
func (t Ticket) Wait(ctx context.Context, timeout time.Duration) (Answer, outcome.Outcome) {
	b := t.batch
	if t.Settled() { // often, under load: spares the timer
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

// Taken reports whether the ticket is one: a send that was refused has none.
func (t Ticket) Taken() bool { return t.batch != nil }

// Leave gives up the ticket: nobody waits for its answer any more.
func (t Ticket) Leave() { t.partition.leave(t.batch, true) }

// Settled says whether the result is there.
func (t Ticket) Settled() bool {
	select {
	case <-t.batch.done:
		return true
	default:
		return false
	}
}

// Result is what became of the send. The ticket must be settled.
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

// leave notes that a request no longer waits. A published batch that nobody waits
// for is forgotten, so that a sequencer that never answers costs no memory. gone: its client does not wait either.
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
