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

	owner atomic.Pointer[owner] // nil until a lease has been seen

	// What readiness is derived from (readiness.go).
	answeredAt time.Time       // when a batch was last answered
	failedAt   time.Time       // when one last failed
	failed     outcome.Outcome // with which outcome
	probe      probe

	ackTimer      *time.Timer
	ackTimerArmed bool

	delayed    bool
	delayTimer *time.Timer
}

// crowdMin is how many sends must wait in a partition, queued or published, before a new one is refused because of
// WaitMax. Fewer are answered together as soon as the log and the sequencer recover.
const crowdMin = 256

func newPartition(number int, c *Committer) *partition {
	p := &partition{number: number, Committer: c, waiting: make(map[uint64]*batch)}
	p.ackTimer = time.AfterFunc(time.Hour, p.onAckTimer)
	p.ackTimer.Stop()
	p.delayTimer = time.AfterFunc(time.Hour, p.onDelayTimer)
	p.delayTimer.Stop()
	return p
}

// add implements Enqueue and EnqueueDeferred. after is the batch of the send that this one must follow, or nil.
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

// flush publishes deferred sends if no batch is in flight.
func (p *partition) flush() {
	p.mu.Lock()
	var next *batch
	if p.mayLeave() {
		next = p.takeNext()
	}
	p.mu.Unlock()
	p.publish(next)
}

// gather is the part of add under the lock. It also returns the batch to publish, if none is in flight.
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
	if err != nil { // cannot happen: the buffer was sized for it
		p.log.Error("cannot encode a send", "error", err)
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

// gathering returns the batch for a send of size bytes: the last one if it has room, otherwise a new one. A send larger
// than batchBytes has a batch of its own. The caller holds the lock.
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

// hasRoom reports whether a send of size bytes fits into a gathering batch. The caller holds the lock.
func (p *partition) hasRoom(b *batch, size int) bool {
	return b.sends == 0 || b.sends < batchSendsMax && b.derivedBytesMax()+size <= p.batchBytes
}

// mayFollow reports whether a send of size bytes cannot be stored without those of the batch after: the log has that batch, or the send joins
// it, and both are stored or neither is. The caller holds the lock.
func (p *partition) mayFollow(after *batch, size int) bool {
	n := len(p.queue)
	return after.acknowledged || n > 0 && p.queue[n-1] == after && p.hasRoom(after, size)
}

// takeNext removes the oldest batch from the queue and makes it the one in flight. The caller holds the lock, and
// publishes the batch after unlocking.
func (p *partition) takeNext() *batch {
	p.delayed = false
	if len(p.queue) == 0 {
		return nil
	}
	b := p.queue[0]
	if b.sends == 0 { // encoding its only send failed
		return nil
	}
	p.queue[0] = nil
	if len(p.queue) == 1 {
		p.queue = p.queue[:0] // the usual case; keeps the slice's capacity
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
	p.oldest() // drops those that are over
	p.order = append(p.order, b)
	if !p.ackTimerArmed {
		p.ackTimerArmed = true
		p.ackTimer.Reset(p.AckTimeout)
	}
	return b
}

// trace starts the span of a commit that holds traced sends. The span lasts from the first send gathered until the log
// acknowledges the commit. The caller holds the lock, since any goroutine that ends the commit ends the span.
func (p *partition) trace(b *batch) {
	b.span = p.tracer.Batch("group commit", b.gathered, b.samples)
	b.span.Int("sendhouse.partition", int64(p.number))
	b.span.Int("sendhouse.batch.sends", int64(b.sends))
	b.span.Int("sendhouse.batch.bytes", int64(len(b.bytes)))
}

// fail settles a batch with a failure and returns the batch to publish next, if none is in flight now. It ignores a batch
// that is over.
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

// takeOut removes a published batch from the partition; the caller settles it. It returns nil if the batch was already
// over. The caller holds the lock.
func (p *partition) takeOut(no uint64) (b, next *batch) {
	b = p.waiting[no]
	p.forget(b)
	return b, p.free(b)
}

// forget stops tracking a published batch. The caller holds the lock.
func (p *partition) forget(b *batch) {
	if b == nil || b.over {
		return
	}
	b.over = true
	delete(p.waiting, b.no)
	p.unended -= b.sends
}

// oldest returns the batch published first that is not over, or nil. The caller holds the lock.
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

// crowded reports whether a new send would wait too long. The estimate is the longest current wait, since as many sends
// are ahead of the new one. Fewer than crowdMin sends, for example while a sequencer is being replaced, are not a crowd
// and may continue to wait. The caller holds the lock.
func (p *partition) crowded() bool {
	if p.sends+p.unended < crowdMin {
		return false
	}
	return p.longestWait() > p.WaitMax
}

// longestWait returns how long the longest-waiting send has waited for its answer. The caller holds the lock.
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

// free records that b is no longer in flight, and takes the next batch if b was. The caller holds the lock.
func (p *partition) free(b *batch) (next *batch) {
	if b == nil || p.inFlight != b {
		return nil
	}
	p.inFlight = nil
	return p.takeNext()
}

// onAck handles JetStream's acknowledgement of batch no.
func (p *partition) onAck(no uint64) {
	p.mu.Lock()
	p.stalled = false // even if the acknowledgement is late
	b := p.inFlight
	if b == nil || b.no != no { // late, or already answered
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

// onRefusal handles JetStream's refusal of batch no.
func (p *partition) onRefusal(no uint64, became outcome.Outcome) {
	p.mu.Lock()
	p.stalled = false // the log responds again
	p.mu.Unlock()
	p.publish(p.fail(no, became))
}

// onAnswer handles the sequencer's answer to batch no, which also proves that the record is durable.
func (p *partition) onAnswer(no uint64, data []byte) {
	p.mu.Lock()
	if p.inFlight != nil && p.inFlight.no == no { // an answer to an older batch proves nothing about the log's present state
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
	p.publish(next) // first, so that the log writes while requests are woken
	if b == nil {
		p.metrics.lateAnswers.Inc()
		return
	}
	answers, err := parseAnswers(data, b.sends)
	if err != nil {
		p.log.Error("invalid answer from the sequencer", "partition", p.number, "batch", no, "sends", b.sends, "error", err)
		b.settle(nil, outcome.Internal)
		return
	}
	b.settle(answers, outcome.Accepted)
	p.metrics.answerDuration.Observe(time.Since(b.published).Seconds())
}

// onAckTimer runs at most once per AckTimeout while there is work. Publishing does not reset the timer; instead the timer
// checks the age of the batch in flight.
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

// onDisconnect fails the batch in flight and the queued ones. Acknowledged batches keep waiting: their answers may arrive
// after a reconnect.
func (p *partition) onDisconnect() {
	p.mu.Lock()
	p.stalled = false // the state of the log after a reconnect is not known
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

// The cost of a group commit hardly depends on its size, and clients whose sends are durable but unanswered cannot send
// more yet. So if no batch is in flight and few sends have gathered, the next commit is delayed until it holds as many
// sends as are unanswered, a commit is answered, or delayMax has passed, since no sequencer may be running.
const (
	// delayUnansweredMin: with fewer unanswered sends there is little to gather, so the commit leaves at once.
	delayUnansweredMin = 8
	// delayMax bounds the wait. An answer follows its acknowledgement within a millisecond or two.
	delayMax = 2 * time.Millisecond
)

// delay reports whether the next commit is held back now that none is in flight, and arms the timer that bounds the delay.
// The caller holds the lock.
func (p *partition) delay() bool {
	if p.unended < delayUnansweredMin || p.enough() {
		return false
	}
	p.delayed = true
	p.delayTimer.Reset(p.delayMax)
	return true
}

// enough reports whether the gathered sends match the unanswered ones in number, or fill a batch. The caller holds the
// lock.
func (p *partition) enough() bool {
	return p.sends >= p.unended || len(p.queue) > 1 || p.sends >= batchSendsMax
}

// mayLeave reports whether no batch is in flight and the gathered sends need not wait. The caller holds the lock.
func (p *partition) mayLeave() bool { return p.inFlight == nil && (!p.delayed || p.enough()) }

// onDelayTimer publishes what has been held back for delayMax.
func (p *partition) onDelayTimer() {
	p.mu.Lock()
	next := p.endDelay()
	p.mu.Unlock()
	p.publish(next)
}

// endDelay takes the next commit if it was held back. The caller holds the lock.
func (p *partition) endDelay() (next *batch) {
	if !p.delayed {
		return nil
	}
	return p.takeNext()
}
