package writer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

const (
	// reserveStep is the amount of memory that a batch reserves from the budget at a time.
	reserveStep = 1 << 20
	// halfTimeRows is the size from which a batch is inserted after half of the interval. An insert takes a core for 10 ms
	// plus 3 to 4 µs a row. At high rates, two short inserts delay requests less than one long one; at low rates, the
	// number of parts is what costs.
	halfTimeRows = 5_000
)

// gapError reports that the log delivered a message after one that is missing.
type gapError struct{ missing seqRange }

func (e *gapError) Error() string {
	return fmt.Sprintf("gap in the message log: messages %s are missing before %d", e.missing, e.missing.Last+1)
}

// limits is when a batch is full.
type limits struct {
	rows          int
	bytes         int64
	interval      time.Duration
	refusedInARow int
}

// gatherer is the middle of a partition's pipeline: the consumer adds messages to one batch while the other is being
// inserted. It checks that partition_seqs are consecutive.
//
// A batch that is due keeps growing until it is taken: when ClickHouse is slow, batches get larger, not more numerous.
type gatherer struct {
	limits limits
	budget *budget

	changed lifecycle.Wake // wakes the taker
	room    lifecycle.Wake // wakes the feeder
	done    chan struct{}  // closed by stop
	stopped sync.Once

	mu       sync.Mutex
	filling  *batch
	spare    *batch // nil while it is being inserted
	next     uint64 // the partition_seq that must come next
	endAt    uint64 // if not 0, the batch is a pending range and ends exactly here, regardless of its size
	received uint64 // records taken, for the watchdog
	blocked  bool   // the feeder waits for room
	err      error  // why nothing more will come
}

func newGatherer(bounds limits, budget *budget, next, endAt uint64, batches [2]*batch) *gatherer {
	return &gatherer{
		limits: bounds, budget: budget, next: next, endAt: endAt, filling: batches[0], spare: batches[1],
		changed: lifecycle.NewWake(), room: lifecycle.NewWake(), done: make(chan struct{}),
	}
}

// add adds a message from the consumer. It blocks while there is no room, and returns at once when the gatherer has
// stopped or failed. It skips messages before the expected one: a batch ended within their record, or the consumer was
// recreated after a lost tail that is being derived again. traceparent is empty unless the message is traced.
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
		g.changed.Signal()
	}
	b.add(seq, encoded)
	if traceparent != "" {
		b.samples.AddTraceparent(seq, traceparent)
	}
	if len(b.records) == halfTimeRows {
		b.due = b.due.Add(-g.limits.interval / 2)
		g.changed.Signal()
	}
	g.next++
	g.received++
	if g.fullLocked(b, seq) {
		b.closed = true
		g.changed.Signal()
	}
}

func (g *gatherer) fullLocked(b *batch, seq uint64) bool {
	if g.endAt != 0 {
		return seq == g.endAt
	}
	return len(b.records) >= g.limits.rows || int64(b.block.Bytes()) >= g.limits.bytes
}

// reserveLocked reserves n bytes for the batch. If it cannot, it returns the channel that signals when to retry; nil
// means that the batch must be taken first.
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
		// A pending range cannot end early. If several partitions waited for each other's memory, none would ever end.
		g.budget.force(need)
		b.reserved += need
		return nil, true
	}
	if !b.empty() {
		b.closed = true // insert what is there, which frees memory
		g.changed.Signal()
		return nil, false
	}
	return changed, false
}

// waitLocked waits for room and reports whether to continue.
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
	case <-changed: // nil blocks forever
		return true
	case <-g.done:
		return false
	}
}

// take waits for a batch that is due. The caller owns the batch until it calls give. It returns an error (ctx's, or
// that of fail) only after the records before it.
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

// tryTake returns a batch that can be inserted now, or the longest time to wait for one.
func (g *gatherer) tryTake() (b *batch, wait time.Duration, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b = g.filling
	if b == nil {
		panic("writer: two batches taken at once")
	}
	if !b.empty() && (b.closed || (g.endAt == 0 && (g.err != nil || !time.Now().Before(b.due)))) {
		g.filling, g.spare, g.endAt = g.spare, nil, 0
		g.room.Signal()
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

// give returns a batch when its rows are not needed any more.
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
	g.room.Signal()
}

// idle reports whether no record waits to be taken.
func (g *gatherer) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.filling == nil || g.filling.empty()
}

// progress returns what the watchdog compares: the partition_seq that is expected next, the number of records received,
// and whether the consumer is blocked.
func (g *gatherer) progress() (next, received uint64, blocked bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next, g.received, g.blocked
}

// fail ends the flow of records: take returns what is there and then err. Only the first error counts.
func (g *gatherer) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failLocked(err)
}

func (g *gatherer) failLocked(err error) {
	if g.err == nil {
		g.err = err
	}
	g.changed.Signal()
	g.room.Signal()
}

// stop unblocks add, and releases the memory of batches that were not taken.
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

// source delivers the messages of one message log in their order.
type source interface {
	// consume calls handle for each message from the record with stream_seq record on, one at a time, until stop is
	// called. handle may block. consume calls failed if the delivery ends by itself.
	consume(ctx context.Context, record uint64, handle handler, failed func(error)) (stop func(), err error)
}

// handler receives a message and the span that traces it, which is empty for most messages.
type handler func(seq uint64, encoded []byte, traceparent string)

// logSource reads a message log.
type logSource struct {
	js     jetstream.JetStream
	stream string
	traced bool // read the trace headers
	warn   func(error)
}

func (s *logSource) consume(ctx context.Context, record uint64, handle handler, failed func(error)) (func(), error) {
	var view message.BatchView // reused: the subscription makes one call at a time
	feed, err := messagelog.OpenFeed(ctx, messagelog.FeedConfig{
		JetStream: s.js, Stream: s.stream, First: record,
		Handle: func(seq uint64, m *nats.Msg) {
			if err := message.ViewBatch(m.Data, &view); err != nil {
				failed(fmt.Errorf("record %d of %s: %w", seq, s.stream, err))
				return
			}
			var traced tracing.Samples
			if s.traced {
				traced = tracing.ParseSamples(m.Header.Get(topology.HeaderTrace))
			}
			for i, encoded := range view.Messages {
				handle(view.First+uint64(i), encoded, traced.Traceparent(uint64(i)))
			}
		},
		Failed: failed, Warn: s.warn,
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what was being done
	}
	return feed.Stop, nil
}
