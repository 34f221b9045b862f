package writer

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// reserveStep is how much memory a batch takes from the budget at a time.
	reserveStep = 1 << 20
	// halfTimeRows: a batch with so many rows is inserted after half of the time. An insert has a core to itself for 10 ms and
	// 3 to 4 µs a row; where rows come fast, two short ones keep requests waiting for less than one that is twice as long, and
	// where they come slowly, parts are what costs.
	halfTimeRows = 5_000
)

// gapError says that the log went on behind a message that did not come.
type gapError struct{ missing seqRange }

func (e *gapError) Error() string {
	return fmt.Sprintf("the log goes on at message %d without %s", e.missing.Last+1, e.missing)
}

// limits is when a batch is full, and when something must be wrong.
type limits struct {
	rows          int
	bytes         int64
	interval      time.Duration
	refusedInARow int
}

// gatherer is the middle of a partition's pipeline: the consumer adds messages to one batch while the other
// one is being inserted. It checks that their places follow each other.
//
// A batch whose time is up goes on growing for as long as nobody takes it: when ClickHouse is slow, batches
// get larger, not more.
type gatherer struct {
	limits limits
	budget *budget

	changed chan struct{} // wakes the taker; holds one token
	room    chan struct{} // wakes the feeder; holds one token
	done    chan struct{} // closed by stop
	stopped sync.Once

	mu       sync.Mutex
	filling  *batch
	spare    *batch // nil while it is being inserted
	next     uint64 // the place that must come next
	endAt    uint64 // if not 0, the batch ends exactly here, whatever its size: it is a pending range
	received uint64 // records taken, for the watchdog
	blocked  bool   // the feeder waits for room
	err      error  // why nothing more will come
}

func newGatherer(bounds limits, budget *budget, next, endAt uint64, batches [2]*batch) *gatherer {
	return &gatherer{
		limits: bounds, budget: budget, next: next, endAt: endAt, filling: batches[0], spare: batches[1],
		changed: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// add takes a message from the consumer. It blocks while there is no room, and returns at once when the
// gatherer has stopped or failed. A message from before what is expected is passed over: a batch ended within its record, or the consumer was
// set up anew behind a tail that was lost and is being derived again. Traceparent is empty unless it is traced.
func (g *gatherer) add(seq uint64, encoded []byte, traceparent string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		switch {
		case g.err != nil, seq < g.next:
			return
		case seq > g.next:
			g.failLocked(&gapError{missing: seqRange{First: g.next, Last: seq - 1}})
			return
		}
		changed, ok := g.reserveLocked(int64(len(encoded)) + recordOverheadBytes)
		if ok {
			break
		}
		if !g.waitLocked(changed) {
			return
		}
	}
	b := g.filling
	if b.empty() {
		b.due = time.Now().Add(g.limits.interval)
		wake(g.changed)
	}
	b.add(seq, encoded)
	if traceparent != "" {
		b.samples.AddTraceparent(seq, traceparent)
	}
	if len(b.records) == halfTimeRows {
		b.due = b.due.Add(-g.limits.interval / 2)
		wake(g.changed)
	}
	g.next++
	g.received++
	if g.fullLocked(b, seq) {
		b.closed = true
		wake(g.changed)
	}
}

func (g *gatherer) fullLocked(b *batch, seq uint64) bool {
	if g.endAt != 0 {
		return seq == g.endAt
	}
	return len(b.records) >= g.limits.rows || int64(b.block.Bytes()) >= g.limits.bytes
}

// reserveLocked makes room for n bytes in the batch. Where it cannot, the channel says when to ask again;
// nil means when the batch has been taken.
func (g *gatherer) reserveLocked(n int64) (changed <-chan struct{}, ok bool) {
	b := g.filling
	if b == nil || b.closed {
		return nil, false
	}
	need := b.memory + n - b.reserved
	if need <= 0 {
		return nil, true
	}
	step := max(need, reserveStep)
	ok, changed = g.budget.take(step)
	if ok {
		b.reserved += step
		return nil, true
	}
	if g.endAt != 0 {
		// A pending range cannot end early. If several waited for each other's memory, none would ever end.
		g.budget.force(need)
		b.reserved += need
		return nil, true
	}
	if !b.empty() {
		b.closed = true // insert what is there; that gives memory back
		wake(g.changed)
		return nil, false
	}
	return changed, false
}

// waitLocked waits for room and reports whether to go on.
func (g *gatherer) waitLocked(changed <-chan struct{}) bool {
	g.blocked = true
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.blocked = false
	}()
	select {
	case <-g.room:
		return true
	case <-changed: // nil blocks for ever
		return true
	case <-g.done:
		return false
	}
}

// take waits for a batch that is to be inserted. The batch belongs to the caller until give. An error comes
// after the records before it: ctx's, or that of fail.
func (g *gatherer) take(ctx context.Context) (*batch, error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		b, wait, err := g.tryTake()
		if b != nil || err != nil {
			return b, err
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-g.changed:
		case <-timer.C:
		}
	}
}

// tryTake gives a batch that can be inserted now, or says how long to wait at most.
func (g *gatherer) tryTake() (b *batch, wait time.Duration, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b = g.filling
	if b == nil {
		panic("writer: two batches taken at once")
	}
	if !b.empty() && (b.closed || (g.endAt == 0 && (g.err != nil || !time.Now().Before(b.due)))) {
		g.filling, g.spare, g.endAt = g.spare, nil, 0
		wake(g.room)
		return b, 0, nil
	}
	if g.err != nil {
		return nil, 0, g.err
	}
	if b.empty() || g.endAt != 0 {
		return nil, time.Hour, nil
	}
	return nil, time.Until(b.due), nil
}

// give hands a taken batch back when its rows are not needed any more.
func (g *gatherer) give(b *batch) {
	b.reset()
	g.budget.release(b.reserved)
	b.reserved = 0
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.filling == nil {
		g.filling = b
	} else {
		g.spare = b
	}
	wake(g.room)
}

// idle reports whether no record waits to be taken.
func (g *gatherer) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.filling == nil || g.filling.empty()
}

// progress is for the watchdog: the next sequence that is expected, the number of records taken so far, and
// whether the consumer is being kept waiting.
func (g *gatherer) progress() (next, received uint64, blocked bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next, g.received, g.blocked
}

// fail ends the flow of records: take gives what is there and then err. Only the first error counts.
func (g *gatherer) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failLocked(err)
}

func (g *gatherer) failLocked(err error) {
	if g.err == nil {
		g.err = err
	}
	wake(g.changed)
	wake(g.room)
}

// stop lets a blocked add return, and gives the memory of what was not taken back.
func (g *gatherer) stop(err error) {
	g.fail(err)
	g.stopped.Do(func() { close(g.done) })
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range []*batch{g.filling, g.spare} {
		if b != nil {
			b.reset()
			g.budget.release(b.reserved)
			b.reserved = 0
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
