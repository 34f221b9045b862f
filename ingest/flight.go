package ingest

import (
	"context"
	"math"
	"net/http"
	"time"
	"unsafe"
)

// Limits of requests that hold many sends.
const (
	flightItemsMax = 2_000 // items of one request that may wait for their answers
	flightHeldMax  = 256   // items held back before they are released
	itemBytes      = 512   // what an item counts in the budget, beside its text

	flightItemsKept = 1_024    // flights with more, or with more text, go to the garbage collector
	flightTextKept  = 64 << 10 // bytes
)

// flight is the sends of one request on their way: each in its place, committed in the
// order of their coming, and answered in it. They gather in the partitions' batches like
// the sends of others.
//
// What it keeps of an item is small, and counted in the budget that all requests share;
// where that has no room the item is not taken.
type flight struct {
	s       *Service
	items   []item
	text    []byte // client_msg_no of all
	settled int    // items[:settled] are answered

	// An ordered flight stops sending to a partition at the first send that this has not taken: see partition.inOrder.
	ordered bool
	begun   []uint64 // of each partition, one more than its failures when the first send went there; 0: none has

	held     int
	touched  []bool    // partitions that hold something back
	deadline time.Time // for the answers to what is held back: of the first of it

	waited   time.Duration // for answers, altogether
	failing  bool          // the last one to be settled had no answer: waiting for more is in vain
	reserved int64
}

// item is one send and, once it is settled, what became of it.
type item struct {
	ticket    ticket // no batch: it never got as far
	deadline  time.Time
	answer    answer
	problem   problem
	from, to  int // of its client_msg_no in text
	generated bool
}

// newFlight gives an empty flight, perhaps with the memory of one that has ended; that counts as if it were made now. The
// caller owes end.
func (s *Service) newFlight() *flight {
	if f, ok := s.flights.Get().(*flight); ok && f.reserve(cap(f.items)*int(unsafe.Sizeof(item{}))+cap(f.text)) {
		return f
	}
	return &flight{s: s, touched: make([]bool, len(s.partitions))}
}

// reserve takes room for so many bytes out of the budget.
func (f *flight) reserve(bytes int) bool {
	if !f.s.requests.budget.take(int64(bytes)) {
		return false
	}
	f.reserved += int64(bytes)
	return true
}

// add is place for an item whose memory is not reserved. Where there is no room for it, it does nothing and says so.
func (f *flight) add(ctx context.Context, req *request, p problem) bool {
	cost := itemBytes + len(p.msg) + len(p.field)
	if p.ok() {
		cost += len(req.send.ClientMsgNo)
	}
	if !f.reserve(cost) {
		return false
	}
	f.place(ctx, req, p)
	return true
}

// place takes the next item: a send that has been checked, or the problem with it. It
// waits for the oldest one's answer where too many are under way. The request may be
// used again when it returns; it may be nil where there is a problem.
func (f *flight) place(ctx context.Context, req *request, p problem) {
	if len(f.items)-f.settled >= flightItemsMax {
		f.settle(ctx)
	}
	if p.ok() && f.s.state.Load() != stateServing {
		p = problem{outcome: outcomeDraining}
	}
	next := item{problem: p}
	if p.ok() {
		next.from = len(f.text)
		f.text = append(f.text, req.send.ClientMsgNo...)
		next.to, next.generated = len(f.text), req.generated
		next.ticket, next.problem = f.enqueue(ctx, req)
		if f.held <= 1 { // it is the first, or nothing is held
			f.deadline = time.Now().Add(f.s.cfg.AnswerTimeout)
		}
		next.deadline = f.deadline
	}
	f.items = append(f.items, next)
	if f.held >= flightHeldMax {
		f.release()
	}
}

// enqueue sends the request on its way. Where there is no room, perhaps the sends of this flight are
// what fills it: they may wait for each other, and only where it has none under way is it others who do.
func (f *flight) enqueue(ctx context.Context, req *request) (ticket, problem) {
	partition, size, span := f.s.partitionOf(req), req.send.SizeVT(), f.s.tracer.Of(ctx)
	var since *uint64
	if f.ordered {
		since = &f.begun[partition.number]
	}
	for {
		t, failed := partition.enqueueHeld(&req.send, size, span, since)
		if failed == outcomeAccepted {
			f.touched[partition.number] = true
			f.held++
		}
		switch {
		case failed != outcomeOverloaded:
			f.missed(since, failed)
			return t, partition.problem(failed)
		case f.held > 0:
			f.release()
		case f.failing || f.settled == len(f.items):
			f.missed(since, failed)
			return t, partition.problem(failed)
		default:
			f.settle(ctx)
		}
	}
}

// neverAgain is no number of failures that a partition has: an ordered flight sends nothing more to it.
const neverAgain = math.MaxUint64

// missed notes that an ordered flight's partition has not taken a send which it may take later.
func (f *flight) missed(since *uint64, failed outcome) {
	if since != nil && failed != outcomeAccepted && failed.spec().status >= http.StatusInternalServerError {
		*since = neverAgain
	}
}

// order makes the flight an ordered one.
func (f *flight) order() {
	f.ordered = true
	f.begun = append(f.begun[:0], make([]uint64, len(f.s.partitions))...)
}

// release lets the items leave that are held back. It must be called before anything
// that may take time.
func (f *flight) release() {
	if f.held == 0 {
		return
	}
	f.held = 0
	for n, touched := range f.touched {
		if touched {
			f.touched[n] = false
			f.s.partitions[n].release()
		}
	}
}

// settle waits for the answer to the oldest item that has none yet.
func (f *flight) settle(ctx context.Context) {
	it := &f.items[f.settled]
	f.settled++
	if it.ticket.batch != nil {
		f.release()
		var became outcome
		if it.ticket.settled() { // as all are of a batch but the first, which spares looking at the clock
			it.answer, became = it.ticket.result()
		} else {
			start := time.Now()
			it.answer, became = it.ticket.wait(ctx, it.deadline.Sub(start))
			f.waited += time.Since(start)
		}
		it.ticket = ticket{} // lets go of the batch
		it.problem = problemOf(it.answer, became, f.clientMsgNo(it), it.generated)
		f.failing = became.spec().status >= http.StatusInternalServerError
	}
	f.s.metrics.items[it.problem.outcome].Inc()
}

// at is the item in a place, settled.
func (f *flight) at(ctx context.Context, i int) *item {
	for f.settled <= i {
		f.settle(ctx)
	}
	return &f.items[i]
}

func (f *flight) clientMsgNo(it *item) []byte { return f.text[it.from:it.to] }

// append appends the answer to an item that is settled.
func (f *flight) append(dst []byte, it *item) []byte {
	switch it.problem.outcome {
	case outcomeAccepted, outcomeDuplicate:
		return appendReplyElement(dst, it.answer, it.problem.outcome == outcomeDuplicate, f.clientMsgNo(it))
	default:
		return it.problem.append(dst)
	}
}

// end gives back what the flight has taken, and the flight itself: it must not be touched any more. Items that are not
// settled go their way; nobody waits for them any more.
func (f *flight) end() {
	f.release()
	for i := f.settled; i < len(f.items); i++ {
		if t := f.items[i].ticket; t.batch != nil {
			t.partition.leave(t.batch, true)
		}
	}
	f.s.requests.budget.giveBack(f.reserved)
	if cap(f.items) > flightItemsKept || cap(f.text) > flightTextKept {
		return
	}
	clear(f.items) // lets go of batches and texts
	*f = flight{s: f.s, items: f.items[:0], text: f.text[:0], touched: f.touched, begun: f.begun}
	f.s.flights.Put(f)
}
