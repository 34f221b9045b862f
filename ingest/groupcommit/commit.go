// Package groupcommit commits sends to the partitions' write-ahead logs, many in one record, and matches the sequencers' answers to them.
//
// # Contract
//
//   - Order: sends of one partition are in the log in the order in which Enqueue took them. If a batch fails, the one after it may still be
//     written; a send that must not be stored without the one before it is enqueued with the ticket of that one (see EnqueueDeferred).
//   - At most once: a batch is never published twice. A send that was published but neither acknowledged nor answered in time ends with
//     outcome.Unknown; repeating it with the same client_msg_no is safe.
//   - Durability: outcome.Accepted means that the log has acknowledged the record, or that the sequencer, which reads only what
//     the log holds, has answered it.
//   - Bounds: SendsMax and BytesMax limit what waits in a partition. If more than crowdMin sends wait and the oldest has waited longer than
//     WaitMax, new ones are refused at once (admission control).
//   - A request that gives up, or whose client disconnects, changes nothing for the others of its batch.
//
// The protocol is described above the type partition.
package groupcommit

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// partition is the group commit of one partition: sends gather in a batch while the batch before is being written, so that one publish, and
// one sync of the log's disk, serves many sends.
//
//	requests              partition                    JetStream           sequencer
//	Enqueue ────────────▶ gathering batch
//	                      publish ───────────────────▶ SENDS_<p>
//	                      onAck ◀──── <inbox>.a.p.no ──────┘ ────────────▶ fold
//	Ticket.Wait ◀──────── onAnswer ◀─ <inbox>.r.p.no ───────────────────────┘
//
// # States of a batch
//
//	gathering     in queue. Only the last of the queue takes sends, up to batchSendsMax and batchBytes.
//	in flight     inFlight, and in waiting: published, not known to be durable. At most one.
//	acknowledged  in waiting: durable; the sequencer has not answered.
//	over          in neither. Settled: done is closed, with answers or an outcome for all; or no request waits for it any more.
//
// # Transitions
//
//	gathering → in flight      takeNext, when no batch is in flight: by Enqueue or Flush; by the event that ends the batch in flight;
//	                           by an answer or delayTimer, if the commit was delayed
//	in flight → acknowledged   onAck
//	in flight → over           onAnswer, since an answer proves that the record is durable; onRefusal (the log's reason);
//	                           onAckTimer (Unknown; the partition is stalled); a failed PublishMsg; onDisconnect (Unknown)
//	acknowledged → over        onAnswer; leave, when the last of its requests stops waiting
//	gathering → over           onDisconnect (WALUnavailable)
//
// Two conditions of the partition change these:
//
//   - delayed: no batch is in flight, and the next is held back (see delay). It ends when the batch has grown, when an answer arrives, or
//     after delayMax.
//   - stalled: a publish was not acknowledged in time, and the log has sent nothing since. One batch at a time tries the log; Enqueue refuses
//     other sends while it is in flight. Any response of the log to a publish ends it, and so does a lost connection.
//
// # Rules
//
//   - mu guards every state above. Publishing and settling happen after mu is released: PublishMsg may block, and waking requests takes time.
//   - The one who removes a batch from inFlight or waiting settles it, so it is settled once. Answers and acknowledgements carry its number;
//     those for a batch that is over are ignored. A batch is never reused.
//   - There is no goroutine per partition and no timer at low load: a request that finds nothing in flight publishes at once, and the
//     event that ends a batch publishes the next. A lone send leaves immediately, and the busier the log, the larger the batches.
type partition struct {
	number int
	*Committer
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

	stalled bool

	owner atomic.Pointer[owner] // nil: no lease was seen yet

	// What readiness is derived from (readiness.go).
	answeredAt time.Time       // when a batch was answered last
	failedAt   time.Time       // when one failed last
	failed     outcome.Outcome // as what
	probe      probe

	ackTimer      *time.Timer
	ackTimerArmed bool

	delayed    bool
	delayTimer *time.Timer
}

// crowdMin is how many sends must wait in a partition, for whatever, before one is refused for how
// long they do. Fewer are answered together, once the log and the sequencer are well.
const crowdMin = 256

func newPartition(number int, c *Committer) *partition {
	p := &partition{number: number, Committer: c, waiting: make(map[uint64]*batch)}
	p.ackTimer = time.AfterFunc(time.Hour, p.onAckTimer)
	p.ackTimer.Stop()
	p.delayTimer = time.AfterFunc(time.Hour, p.onDelayTimer)
	p.delayTimer.Stop()
	return p
}

// add is Enqueue and EnqueueDeferred; after is the batch of the send that this one must follow, nil if it may be stored without another.
func (p *partition) add(s *message.Send, size int, span *tracing.Span, deferred bool, after *batch) (Ticket, outcome.Outcome) {
	size += message.MessageFrameOverheadMax
	if !p.connected.Load() {
		return Ticket{}, outcome.WALUnavailable
	}
	if p.refuses() {
		return Ticket{}, outcome.PartitionRefused
	}
	if size > p.batchBytes && int64(size) > p.publisher.MaxPayload()-headerRoomBytes {
		return Ticket{}, outcome.TooLarge
	}
	t, next, failed := p.gather(s, size, span, deferred, after)
	if next != nil {
		p.publish(next)
	}
	return t, failed
}

// flush publishes what was added to be held, if the way is free.
func (p *partition) flush() {
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
func (p *partition) gather(s *message.Send, size int, span *tracing.Span, deferred bool, after *batch) (t Ticket, next *batch, became outcome.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if after != nil && !p.mayFollow(after, size) {
		return Ticket{}, nil, outcome.Accepted
	}
	if p.stalled && p.inFlight != nil {
		return Ticket{}, nil, outcome.WALStalled
	}
	if p.sends >= p.SendsMax || p.bytes+size > p.BytesMax || p.crowded() {
		return Ticket{}, nil, outcome.Overloaded
	}
	b := p.gathering(size)
	before := len(b.bytes)
	encoded, err := message.AppendSend(b.bytes, s)
	if err != nil { // cannot happen: it writes into memory it has measured
		p.log.Error("a send could not be encoded", "error", err)
		b.bytes = encoded[:before]
		return Ticket{}, nil, outcome.Internal
	}
	b.bytes = encoded
	t = Ticket{partition: p, batch: b, index: b.sends}
	b.samples.Add(uint64(b.sends), span)
	b.sends++
	p.sends++
	p.bytes += len(encoded) - before
	if !deferred && p.mayLeave() {
		next = p.takeNext()
	}
	return t, next, outcome.Accepted
}

// gathering is the batch that a send of size bytes goes to: the last one if it has
// room, or a new one. A send that is larger than a batch may be goes alone. Under the
// lock.
func (p *partition) gathering(size int) *batch {
	if n := len(p.queue); n > 0 {
		if b := p.queue[n-1]; p.hasRoom(b, size) {
			return b
		}
	}
	buffer := p.buffers.Get()
	b := &batch{buffer: buffer, bytes: *buffer, gathered: time.Now(), done: make(chan struct{})}
	p.queue = append(p.queue, b)
	return b
}

// hasRoom reports whether a send of size bytes fits into a gathering batch. Under the lock.
func (p *partition) hasRoom(b *batch, size int) bool {
	return b.sends == 0 || b.sends < batchSendsMax && b.derivedBytesMax()+size <= p.batchBytes
}

// mayFollow reports whether a send of size bytes cannot be stored without those of the batch after: the log has that batch, or the send joins
// it, and both are stored or neither is. Under the lock.
func (p *partition) mayFollow(after *batch, size int) bool {
	n := len(p.queue)
	return after.acknowledged || n > 0 && p.queue[n-1] == after && p.hasRoom(after, size)
}

// takeNext takes the oldest batch off the queue and makes it the one in flight.
// Under the lock; the caller publishes it after unlocking.
func (p *partition) takeNext() *batch {
	p.delayed = false
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
		p.ackTimer.Reset(p.AckTimeout)
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
func (p *partition) fail(no uint64, became outcome.Outcome) (next *batch) {
	p.mu.Lock()
	b, next := p.takeOut(no)
	p.noteFailure(became)
	p.mu.Unlock()
	if b != nil {
		b.settle(nil, became)
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
	return p.longestWait() > p.WaitMax
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
	if !p.delay() {
		next = p.takeNext()
	}
	p.mu.Unlock()
	p.publish(next)
	b.span.End()
	p.metrics.ackDuration.Observe(took.Seconds())
}

// onRefusal is told that the log has not taken the batch.
func (p *partition) onRefusal(no uint64, became outcome.Outcome) {
	p.mu.Lock()
	p.stalled = false // whatever is wrong, it says so
	p.mu.Unlock()
	p.publish(p.fail(no, became))
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
		next = p.endDelay()
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
		b.settle(nil, outcome.Internal)
		return
	}
	b.settle(answers, outcome.Accepted)
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
	if left := p.AckTimeout - time.Since(b.published); left > 0 {
		p.ackTimer.Reset(left)
		p.mu.Unlock()
		return
	}
	p.ackTimerArmed = false // takeNext arms it again
	p.stalled = true
	p.noteFailure(outcome.WALStalled)
	_, next := p.takeOut(b.no)
	p.mu.Unlock()
	p.log.Warn("the write-ahead log did not acknowledge in time", "partition", p.number, "batch", b.no, "sends", b.sends, "timeout", p.AckTimeout)
	b.settle(nil, outcome.Unknown)
	p.publish(next)
}

// onDisconnect answers what is in flight and what is queued. What is acknowledged
// and not yet answered goes on waiting: its answer may come after a reconnect.
func (p *partition) onDisconnect() {
	p.mu.Lock()
	p.stalled = false // what comes behind a reconnect is another matter
	p.failedAt, p.probe = time.Time{}, probe{}
	failed := p.queue
	p.queue, p.sends, p.bytes, p.delayed = nil, 0, 0, false
	flying := p.inFlight
	if flying != nil {
		p.inFlight = nil
		p.forget(flying)
	}
	p.mu.Unlock()
	if flying != nil {
		flying.settle(nil, outcome.Unknown)
	}
	for _, b := range failed {
		b.settle(nil, outcome.WALUnavailable)
	}
}

// A group commit costs much the same whatever it holds, and the clients whose sends are durable but not answered cannot send
// more yet. So where the way is free and little has gathered, the next commit is held back: until it holds as many sends as
// are under way, or a commit is answered, or the time is up, since there may be nobody to answer.
const (
	// delayUnansweredMin: with fewer sends under way there is little to gather, and nobody is kept waiting for it.
	delayUnansweredMin = 8
	// delayMax bounds the wait. An answer follows its acknowledgement within a millisecond or two.
	delayMax = 2 * time.Millisecond
)

// delay reports whether the next commit is held back, now that the way is free, and sees to it that it goes in time. Under the
// lock.
func (p *partition) delay() bool {
	if p.unended < delayUnansweredMin || p.enough() {
		return false
	}
	p.delayed = true
	p.delayTimer.Reset(p.delayMax)
	return true
}

// enough says whether as many sends are gathered as are under way, or as many as one commit takes. Under the lock.
func (p *partition) enough() bool {
	return p.sends >= p.unended || len(p.queue) > 1 || p.sends >= batchSendsMax
}

// mayLeave says whether the way is free and what has gathered need not wait. Under the lock.
func (p *partition) mayLeave() bool { return p.inFlight == nil && (!p.delayed || p.enough()) }

// onDelayTimer lets go what has been held back for as long as may be.
func (p *partition) onDelayTimer() {
	p.mu.Lock()
	next := p.endDelay()
	p.mu.Unlock()
	p.publish(next)
}

// endDelay takes the next commit if it was held back. Under the lock.
func (p *partition) endDelay() (next *batch) {
	if !p.delayed {
		return nil
	}
	return p.takeNext()
}
