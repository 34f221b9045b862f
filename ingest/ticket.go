package ingest

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ticket is a request's place in a batch.
type ticket struct {
	partition *partition
	batch     *batch
	index     int
}

// patience is how long a request waits before it asks whether its client is still there, which costs
// more than most answers do.
const patience = 250 * time.Millisecond

// wait waits for the answer to a ticket. ctx is the request's own.
func (t ticket) wait(ctx context.Context, timeout time.Duration) (answer, outcome) {
	b := t.batch
	if t.settled() { // often, under load: spares the timer
		return t.result()
	}
	timers := t.partition.timers
	timer := timers.get(min(patience, timeout))
	defer timers.put(timer)
	select {
	case <-b.done:
		return t.result()
	case <-timer.C:
	}
	timer.Reset(timeout - min(patience, timeout))
	select {
	case <-b.done:
		return t.result()
	case <-timer.C:
		return answer{}, t.partition.leave(b, false)
	case <-ctx.Done():
		t.partition.leave(b, true)
		return answer{}, outcomeClientGone
	}
}

// settled says whether the result is there.
func (t ticket) settled() bool {
	select {
	case <-t.batch.done:
		return true
	default:
		return false
	}
}

func (t ticket) result() (answer, outcome) {
	if t.batch.failure != outcomeAccepted {
		return answer{}, t.batch.failure
	}
	a := t.batch.answers[t.index]
	switch a.outcome {
	case message.Outcome_OUTCOME_DUPLICATE:
		return a, outcomeDuplicate
	case message.Outcome_OUTCOME_CONFLICT:
		return a, outcomeConflict
	default:
		return a, outcomeAccepted
	}
}

// leave notes that a request no longer waits. A published batch that nobody waits
// for is forgotten, so that a sequencer that never answers costs no memory. gone: its client does not wait either.
func (p *partition) leave(b *batch, gone bool) outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	b.left++
	if b.left == b.sends && b.no != 0 && p.inFlight != b {
		p.forget(b)
	}
	became := outcomeUnknown
	if b.acknowledged {
		became = outcomeNoAnswer
	}
	if !gone {
		p.noteFailure(became)
	}
	return became
}
