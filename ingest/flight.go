package ingest

import (
	"context"
	"net/http"
	"time"
	"unsafe"

	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/request"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// Limits of a request with many sends.
const (
	flightItemsMax    = 2_000 // items of one request that may wait for their answers
	flightDeferredMax = 256   // items held back before they are released
	itemBytes         = 512   // what an item is charged to the budget, in addition to its text

	flightItemsKept = 1_024    // flights with more, or with more text, go to the garbage collector
	flightTextKept  = 64 << 10 // bytes
)

// flight holds the sends of one request with many sends. They are committed in the order of arrival, gather in the
// partitions' batches together with sends of other requests, and are answered in the same order.
//
// A flight keeps little per item, and charges it to the budget that all requests share; if the budget has no room, the
// item is not accepted.
type flight struct {
	s       *Service
	items   []item
	text    []byte // client_msg_no of all, and the names of temporary channels
	settled int    // items[:settled] are answered

	ordered bool
	lanes   []lane // of an ordered flight, by partition

	deferred int
	touched  []bool    // partitions with deferred sends
	deadline time.Time // for the answers to the deferred sends, starting with the first

	waited   time.Duration // total time spent waiting for answers
	failing  bool          // the last settled item had no answer, so waiting for more is pointless
	reserved int64
}

// lane is the state of an ordered flight in one partition. A send is enqueued only if the flight's previous send there is in the log, or in the
// same group commit; otherwise the flight waits for the result of that one. After a send that was not taken, the flight sends nothing more to
// the partition. Sends of other requests share the group commits as before and are not affected.
type lane struct {
	last    int // items[last-1] went there last, and its result has not been looked at; 0: there is no such item
	stopped bool
}

// item is one send and, once settled, its outcome.
type item struct {
	ticket    groupcommit.Ticket // not taken: the send was refused before it was enqueued
	deadline  time.Time
	answer    groupcommit.Answer
	problem   outcome.Problem
	from, to  int // of its client_msg_no in flight.text
	generated bool
	temporary bool // the name of its temporary channel follows in flight.text
}

// newFlight returns an empty flight, possibly with the recycled memory of another, which is charged as if it were new. The
// caller must call end.
func (s *Service) newFlight() *flight {
	if f, ok := s.flights.Get().(*flight); ok && f.reserve(cap(f.items)*int(unsafe.Sizeof(item{}))+cap(f.text)) {
		return f
	}
	return &flight{s: s, touched: make([]bool, int(s.topology))}
}

// reserve takes bytes from the budget.
func (f *flight) reserve(bytes int) bool {
	if !f.s.requests.Budget.Take(int64(bytes)) {
		return false
	}
	f.reserved += int64(bytes)
	return true
}

// tryPush is push for an item whose memory has not been reserved. If the budget has no room for it, tryPush does nothing
// and reports false.
func (f *flight) tryPush(ctx context.Context, req *request.Request, p outcome.Problem) bool {
	cost := itemBytes + len(p.Msg) + len(p.Field)
	if p.OK() {
		cost += len(req.Send.ClientMsgNo) + len(req.TemporaryChannel())
	}
	if !f.reserve(cost) {
		return false
	}
	f.push(ctx, req, p)
	return true
}

// push adds the next item: a checked send, or the problem with it. If too many items are unsettled, it first waits for the
// answer to the oldest. req may be reused when push returns; it may be nil if there is a problem.
func (f *flight) push(ctx context.Context, req *request.Request, p outcome.Problem) {
	if len(f.items)-f.settled >= flightItemsMax {
		f.settle(ctx)
	}
	if p.OK() && f.s.state.Load() != stateServing {
		p = outcome.Problem{Outcome: outcome.Draining}
	}
	next := item{problem: p}
	if p.OK() {
		next.from = len(f.text)
		f.text = append(f.text, req.Send.ClientMsgNo...)
		next.to, next.generated = len(f.text), req.Generated
		if name := req.TemporaryChannel(); name != "" {
			f.text, next.temporary = append(f.text, name...), true
		}
		next.ticket, next.problem = f.enqueue(ctx, req)
		if f.deferred <= 1 { // the first deferred item, or none is deferred
			f.deadline = time.Now().Add(f.s.cfg.AnswerTimeout)
		}
		next.deadline = f.deadline
	}
	f.items = append(f.items, next)
	if f.ordered {
		f.note(req)
	}
	if f.deferred >= flightDeferredMax {
		f.flush()
	}
}

// enqueue enqueues the send. If the partition has no room, this flight's own sends may be what fills it, so it waits for
// them and retries; if it has none unsettled, other requests fill the partition and the send is refused.
func (f *flight) enqueue(ctx context.Context, req *request.Request) (groupcommit.Ticket, outcome.Problem) {
	partition, size, span := f.s.partitionOf(req), req.Send.SizeVT(), f.s.tracer.Of(ctx)
	for {
		after, stopped := f.after(partition)
		if stopped {
			return groupcommit.Ticket{}, outcome.Problem{Outcome: outcome.WALUnavailable, Msg: "an item before it was not taken; nothing was written"}
		}
		t, p := f.s.commits.EnqueueDeferred(partition, &req.Send, size, span, after)
		if t.Taken() {
			f.touched[partition] = true
			f.deferred++
		}
		switch {
		case p.OK() && !t.Taken(): // after is not in the log yet
			f.settle(ctx)
		case p.Outcome != outcome.Overloaded:
			return t, p
		case f.deferred > 0:
			f.flush()
		case f.failing || f.settled == len(f.items):
			return t, p
		default:
			f.settle(ctx)
		}
	}
}

// keepOrder makes the flight an ordered one. It has no items yet.
func (f *flight) keepOrder() {
	f.ordered = true
	if f.lanes == nil {
		f.lanes = make([]lane, len(f.touched))
	}
	clear(f.lanes)
}

// after returns the ticket of the send that the next one to a partition must follow, and whether the flight sends nothing more there. It is the
// zero Ticket if that one is stored, if there is none, or if the flight is not ordered.
func (f *flight) after(partition int) (after groupcommit.Ticket, stopped bool) {
	if !f.ordered {
		return after, false
	}
	l := &f.lanes[partition]
	if l.last > f.settled {
		return f.items[l.last-1].ticket, l.stopped
	}
	if l.last > 0 {
		l.stopped = l.stopped || missed(f.items[l.last-1].problem.Outcome)
		l.last = 0
	}
	return after, l.stopped
}

// note keeps in an ordered flight what has become of its newest item so far. Without a request its channel is not known.
func (f *flight) note(req *request.Request) {
	it := &f.items[len(f.items)-1]
	switch {
	case it.ticket.Taken():
		f.lanes[f.s.partitionOf(req)].last = len(f.items)
	case !missed(it.problem.Outcome):
	case req != nil:
		f.lanes[f.s.partitionOf(req)].stopped = true
	default:
		for n := range f.lanes {
			f.lanes[n].stopped = true
		}
	}
}

// missed reports whether a send with this outcome may still be stored by a later request, so that those after it must wait for it.
func missed(o outcome.Outcome) bool {
	return o == outcome.ClientGone || o.Spec().Status >= http.StatusInternalServerError
}

// flush publishes the deferred items. It must be called before anything that may block.
func (f *flight) flush() {
	if f.deferred == 0 {
		return
	}
	f.deferred = 0
	for n, touched := range f.touched {
		if touched {
			f.touched[n] = false
			f.s.commits.Flush(n)
		}
	}
}

// settle waits for the answer to the oldest item that has none yet.
func (f *flight) settle(ctx context.Context) {
	it := &f.items[f.settled]
	f.settled++
	if it.ticket.Taken() {
		f.flush()
		var became outcome.Outcome
		if it.ticket.Settled() { // true for all items of a batch but the first; saves reading the clock
			it.answer, became = it.ticket.Result()
		} else {
			start := time.Now()
			it.answer, became = it.ticket.Wait(ctx, it.deadline.Sub(start))
			f.waited += time.Since(start)
		}
		it.ticket = groupcommit.Ticket{} // releases the batch
		it.problem = problemOf(it.answer, became, f.clientMsgNo(it), it.generated)
		f.failing = became.Spec().Status >= http.StatusInternalServerError
	}
	f.s.metrics.items[it.problem.Outcome].Inc()
}

// at returns item i, settled.
func (f *flight) at(ctx context.Context, i int) *item {
	for f.settled <= i {
		f.settle(ctx)
	}
	return &f.items[i]
}

func (f *flight) clientMsgNo(it *item) []byte { return f.text[it.from:it.to] }

// temporaryChannel returns the name of the item's temporary channel, or nil if the item names its channel.
func (f *flight) temporaryChannel(it *item) []byte {
	if !it.temporary {
		return nil
	}
	return f.text[it.to : it.to+message.TemporaryChannelBytes]
}

// append appends the answer to a settled item.
func (f *flight) append(dst []byte, it *item) []byte {
	switch it.problem.Outcome {
	case outcome.Accepted, outcome.Duplicate:
		return appendReplyElement(dst, it.answer, it.problem.Outcome == outcome.Duplicate, f.clientMsgNo(it), f.temporaryChannel(it))
	default:
		return it.problem.Append(dst)
	}
}

// end returns the flight and its memory; the flight must not be used afterwards. Unsettled items are still committed, but
// no longer waited for.
func (f *flight) end() {
	f.flush()
	for i := f.settled; i < len(f.items); i++ {
		if t := f.items[i].ticket; t.Taken() {
			t.Leave()
		}
	}
	f.s.requests.Budget.GiveBack(f.reserved)
	if cap(f.items) > flightItemsKept || cap(f.text) > flightTextKept {
		return
	}
	clear(f.items) // releases batches and texts
	*f = flight{s: f.s, items: f.items[:0], text: f.text[:0], touched: f.touched, lanes: f.lanes}
	f.s.flights.Put(f)
}
