package ingest

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// partition commits the sends of one partition, one publish in flight at a time.
//
// There is no goroutine of its own and no timer at low load. A request that finds
// nothing in flight publishes at once; whoever sees the batch in flight end
// publishes the next, or holds it back a little (hold.go). So a lone send leaves
// immediately, and the busier the log, the larger the batches.
type partition struct {
	number int
	*committer
	faults lifecycle.Repeated

	mu       sync.Mutex
	inFlight *batch            // published and not yet known to be durable
	queue    []*batch          // gathering, oldest first; only the last takes sends
	waiting  map[uint64]*batch // published and not yet answered, by number; includes inFlight
	order    []*batch          // waiting, oldest first, and some that are over
	lastNo   uint64
	sends    int // in queue
	bytes    int // in queue
	unended  int // sends in waiting

	// stalled: a publish was not acknowledged in time, and the log has said nothing since. One batch at a time
	// finds out whether it does again; what comes meanwhile is refused and not kept waiting.
	stalled bool

	owner atomic.Pointer[owner] // nil: no lease was seen yet

	// What readiness goes by (ready.go).
	answeredAt time.Time // when a batch was answered last
	failedAt   time.Time // when one failed last
	failed     outcome   // as what
	probe      probe

	ackTimer      *time.Timer
	ackTimerArmed bool

	failures uint64 // batches that have failed; see inOrder

	held      bool // the way is free, and what gathers is held back (hold.go)
	holdTimer *time.Timer
}

// committer is what the partitions share.
type committer struct {
	publisher  publisher
	inbox      *inbox
	log        *slog.Logger
	metrics    *metrics
	tracer     *tracing.Tracer // nil: nothing is traced
	ackTimeout time.Duration
	sendsMax   int // that may wait, per partition
	bytesMax   int // that may wait, per partition
	waitMax    time.Duration
	holdMax    time.Duration // how long a commit is held back at most
	batchBytes int           // in one batch
	buffers    *bytesPool
	timers     *timerPool
	connected  atomic.Bool
	partitions []*partition
}

// crowdMin is how many sends must wait in a partition, for whatever, before one is refused for how
// long they do. Fewer are answered together, once the log and the sequencer are well.
const crowdMin = 256

func newPartition(number int, c *committer) *partition {
	p := &partition{number: number, committer: c, waiting: make(map[uint64]*batch)}
	p.ackTimer = time.AfterFunc(time.Hour, p.onAckTimer)
	p.ackTimer.Stop()
	p.holdTimer = time.AfterFunc(time.Hour, p.onHoldTimer)
	p.holdTimer.Stop()
	return p
}

// enqueue encodes a send of size bytes into the gathering batch. The send may be
// reused when it returns. Span is that of its request, nil where that is not traced.
func (p *partition) enqueue(s *message.Send, size int, span *tracing.Span) (ticket, outcome) {
	return p.add(s, size, span, false, nil)
}

// enqueueHeld is enqueue for one of many: it does not publish, so that a bulk does not
// begin with a group commit of one. Release must follow, and soon: until then the send
// leaves only if another one takes it along.
// Since is an ordered flight's, and nil for others; see inOrder.
func (p *partition) enqueueHeld(s *message.Send, size int, span *tracing.Span, since *uint64) (ticket, outcome) {
	return p.add(s, size, span, true, since)
}

func (p *partition) add(s *message.Send, size int, span *tracing.Span, hold bool, since *uint64) (ticket, outcome) {
	size += message.MessageFrameOverheadMax
	if !p.connected.Load() {
		return ticket{}, outcomeWALUnavailable
	}
	if p.refuses() {
		return ticket{}, outcomePartitionRefused
	}
	if size > p.batchBytes && int64(size) > p.publisher.MaxPayload()-headerRoomBytes {
		return ticket{}, outcomeTooLarge
	}
	t, next, failed := p.gather(s, size, span, hold, since)
	if next != nil {
		p.publish(next)
	}
	return t, failed
}

// release publishes what enqueueHeld has held back, if the way is free; if it is not,
// it leaves when it is.
func (p *partition) release() {
	p.mu.Lock()
	var next *batch
	if p.mayLeave() {
		next = p.takeNext()
	}
	p.mu.Unlock()
	p.publish(next)
}

// gather is enqueue under the lock; it also takes the batch to be published, if the
// way is free.
func (p *partition) gather(s *message.Send, size int, span *tracing.Span, hold bool, since *uint64) (t ticket, next *batch, failed outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since != nil && !p.inOrder(since) {
		return ticket{}, nil, outcomeWALUnavailable
	}
	if p.stalled && p.inFlight != nil {
		return ticket{}, nil, outcomeWALStalled
	}
	if p.sends >= p.sendsMax || p.bytes+size > p.bytesMax || p.crowded() {
		return ticket{}, nil, outcomeOverloaded
	}
	b := p.gathering(size)
	before := len(b.bytes)
	encoded, err := message.AppendSend(b.bytes, s)
	if err != nil { // cannot happen: it writes into memory it has measured
		p.log.Error("a send could not be encoded", "error", err)
		b.bytes = encoded[:before]
		return ticket{}, nil, outcomeInternal
	}
	b.bytes = encoded
	t = ticket{partition: p, batch: b, index: b.sends}
	b.samples.Add(uint64(b.sends), span)
	b.sends++
	b.ordered = b.ordered || since != nil
	p.sends++
	p.bytes += len(encoded) - before
	if !hold && p.mayLeave() {
		next = p.takeNext()
	}
	return t, next, outcomeAccepted
}

// inOrder reports whether a send of an ordered flight may follow those before it: no batch of the partition has failed since the first of them
// came. Those that had gathered before the failure have failed with it (breakOrder), so none is stored before one that is not. Under the lock.
func (p *partition) inOrder(since *uint64) bool {
	if *since == 0 {
		*since = p.failures + 1
	}
	return *since == p.failures+1
}

// breakOrder notes that a batch has failed, and takes out those behind it that hold sends of ordered flights. The caller settles them with
// outcomeWALUnavailable. Under the lock.
func (p *partition) breakOrder() (broken []*batch) {
	p.failures++
	p.queue = slices.DeleteFunc(p.queue, func(b *batch) bool {
		if b.ordered {
			broken = append(broken, b)
			p.sends -= b.sends
			p.bytes -= len(b.bytes)
		}
		return b.ordered
	})
	return broken
}

func settleAll(batches []*batch, failed outcome) {
	for _, b := range batches {
		b.settle(nil, failed)
	}
}

// gathering is the batch that a send of size bytes goes to: the last one if it has
// room, or a new one. A send that is larger than a batch may be goes alone. Under the
// lock.
func (p *partition) gathering(size int) *batch {
	if n := len(p.queue); n > 0 {
		if b := p.queue[n-1]; b.sends == 0 || b.sends < batchSendsMax && b.derivedBytesMax()+size <= p.batchBytes {
			return b
		}
	}
	buffer := p.buffers.get()
	b := &batch{buffer: buffer, bytes: *buffer, gathered: time.Now(), done: make(chan struct{})}
	p.queue = append(p.queue, b)
	return b
}

// takeNext takes the oldest batch off the queue and makes it the one in flight.
// Under the lock; the caller publishes it after unlocking.
func (p *partition) takeNext() *batch {
	p.held = false
	if len(p.queue) == 0 {
		return nil
	}
	b := p.queue[0]
	if b.sends == 0 { // its only send could not be encoded
		return nil
	}
	p.queue[0] = nil
	if len(p.queue) == 1 {
		p.queue = p.queue[:0] // the usual case; keeps the memory
	} else {
		p.queue = p.queue[1:]
	}
	p.sends -= b.sends
	p.bytes -= len(b.bytes)
	p.lastNo++
	b.no, b.published = p.lastNo, time.Now()
	if b.samples != nil {
		p.trace(b)
	}
	p.inFlight = b
	p.waiting[b.no] = b
	p.unended += b.sends
	p.oldest() // lets go of those that are over
	p.order = append(p.order, b)
	if !p.ackTimerArmed {
		p.ackTimerArmed = true
		p.ackTimer.Reset(p.ackTimeout)
	}
	return b
}

// trace begins the span of a commit that holds sends which are traced: from the first send that it gathered until the log
// has it. Under the lock, since whoever ends the commit ends the span.
func (p *partition) trace(b *batch) {
	b.span = p.tracer.Batch("group commit", b.gathered, b.samples)
	b.span.Int("sendhouse.partition", int64(p.number))
	b.span.Int("sendhouse.batch.sends", int64(b.sends))
	b.span.Int("sendhouse.batch.bytes", int64(len(b.bytes)))
}

// fail answers a batch with a failure and returns the batch to be published next, if
// the way is free now. A batch that is no longer waited for is left alone.
func (p *partition) fail(no uint64, failed outcome) (next *batch) {
	p.mu.Lock()
	broken := p.breakOrder()
	b, next := p.takeOut(no)
	p.noteFailure(failed)
	p.mu.Unlock()
	settleAll(broken, outcomeWALUnavailable)
	if b != nil {
		b.settle(nil, failed)
	}
	return next
}

// takeOut ends the partition's hold on a published batch: the caller settles it. It
// is nil if it had ended before. Under the lock.
func (p *partition) takeOut(no uint64) (b, next *batch) {
	b = p.waiting[no]
	p.forget(b)
	return b, p.free(b)
}

// forget notes that nobody asks for a published batch any more. Under the lock.
func (p *partition) forget(b *batch) {
	if b == nil || b.over {
		return
	}
	b.over = true
	delete(p.waiting, b.no)
	p.unended -= b.sends
}

// oldest is the batch that was published first and is not over, if there is one. Under the
// lock.
func (p *partition) oldest() *batch {
	for len(p.order) > 0 {
		if !p.order[0].over {
			return p.order[0]
		}
		p.order[0] = nil
		p.order = p.order[1:]
	}
	return nil
}

// crowded says whether a send that came now would wait too long: so long as the one that has
// waited longest, for those ahead of it are as many. A few sends that wait, for a sequencer that is
// being replaced say, are no crowd, and may go on to wait. Under the lock.
func (p *partition) crowded() bool {
	if p.sends+p.unended < crowdMin {
		return false
	}
	return p.longestWait() > p.waitMax
}

// longestWait is how long the send that has waited longest for its answer has done so. Under the
// lock.
func (p *partition) longestWait() time.Duration {
	first := p.oldest()
	if first == nil {
		if len(p.queue) == 0 {
			return 0
		}
		first = p.queue[0]
	}
	return time.Since(first.gathered)
}

// free notes that b is no longer in flight, and takes the next batch if it was.
// Under the lock.
func (p *partition) free(b *batch) (next *batch) {
	if b == nil || p.inFlight != b {
		return nil
	}
	p.inFlight = nil
	return p.takeNext()
}

// onAck is told that the log has the batch.
func (p *partition) onAck(no uint64) {
	p.mu.Lock()
	p.stalled = false // late or not
	b := p.inFlight
	if b == nil || b.no != no { // late, or answered already
		p.mu.Unlock()
		return
	}
	b.acknowledged = true
	took := time.Since(b.published)
	p.inFlight = nil
	if b.left == b.sends {
		p.forget(b)
	}
	var next *batch
	if !p.hold() {
		next = p.takeNext()
	}
	p.mu.Unlock()
	p.publish(next)
	b.span.End()
	p.metrics.ackDuration.Observe(took.Seconds())
}

// onRefusal is told that the log has not taken the batch.
func (p *partition) onRefusal(no uint64, failed outcome) {
	p.mu.Lock()
	p.stalled = false // whatever is wrong, it says so
	p.mu.Unlock()
	p.publish(p.fail(no, failed))
}

// onAnswer is told what became of the batch. An answer also says that the log has it.
func (p *partition) onAnswer(no uint64, data []byte) {
	p.mu.Lock()
	if p.inFlight != nil && p.inFlight.no == no { // an answer to an older one says nothing of the log now
		p.stalled = false
	}
	b, next := p.takeOut(no)
	if b != nil {
		p.answeredAt = time.Now()
	}
	if next == nil {
		next = p.letGo()
	}
	p.mu.Unlock()
	p.publish(next) // first, so that the log works while the requests are woken
	if b == nil {
		p.metrics.lateAnswers.Inc()
		return
	}
	answers, err := parseAnswers(data, b.sends)
	if err != nil {
		p.log.Error("the sequencer's answer makes no sense", "partition", p.number, "batch", no, "sends", b.sends, "error", err)
		b.settle(nil, outcomeInternal)
		return
	}
	b.settle(answers, outcomeAccepted)
	p.metrics.answerDuration.Observe(time.Since(b.published).Seconds())
}

// onAckTimer runs at most once per AckTimeout while there is work: publishing does
// not touch the timer, the timer looks how old the batch in flight is.
func (p *partition) onAckTimer() {
	p.mu.Lock()
	b := p.inFlight
	if b == nil {
		p.ackTimerArmed = false
		p.mu.Unlock()
		return
	}
	if left := p.ackTimeout - time.Since(b.published); left > 0 {
		p.ackTimer.Reset(left)
		p.mu.Unlock()
		return
	}
	p.ackTimerArmed = false // takeNext arms it again
	p.stalled = true
	p.noteFailure(outcomeWALStalled)
	broken := p.breakOrder()
	_, next := p.takeOut(b.no)
	p.mu.Unlock()
	settleAll(broken, outcomeWALUnavailable)
	p.log.Warn("the write-ahead log did not acknowledge in time", "partition", p.number, "batch", b.no, "sends", b.sends, "timeout", p.ackTimeout)
	b.settle(nil, outcomeUnknown)
	p.publish(next)
}

// onDisconnect answers what is in flight and what is queued. What is acknowledged
// and not yet answered goes on waiting: its answer may come after a reconnect.
func (p *partition) onDisconnect() {
	p.mu.Lock()
	p.stalled = false // what comes behind a reconnect is another matter
	p.failedAt, p.probe = time.Time{}, probe{}
	failed := p.queue
	p.failures++
	p.queue, p.sends, p.bytes, p.held = nil, 0, 0, false
	flying := p.inFlight
	if flying != nil {
		p.inFlight = nil
		p.forget(flying)
	}
	p.mu.Unlock()
	if flying != nil {
		flying.settle(nil, outcomeUnknown)
	}
	for _, b := range failed {
		b.settle(nil, outcomeWALUnavailable)
	}
}
