package runner

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// Limits of what is on its way to the message log at one time. A chunk is
// acknowledged as one.
const (
	chunkRecordsMax = 512
	chunkBytesMax   = 1 << 20
	chunksInFlight  = 8
)

// outbox holds what becomes of the records of a partition from when it is derived until the
// message log has acknowledged it, in order. Folding puts, emitting takes,
// acknowledgements move the front.
type outbox struct {
	messagesMax, bytesMax int

	mu       sync.Mutex
	queue    []Output // queue[i].Seq = acked+1+i; it lies in space
	space    []Output
	acked    uint64   // stream sequence up to which the message log has everything
	sent     uint64   // acked ≤ sent ≤ last derived
	ends     []uint64 // last sequence of each chunk in flight, ascending
	messages int      // in the queue
	bytes    int      // of the queue
	failed   error    // why the chain broke; cleared by rewind

	waiting []ackWaiter

	room   lifecycle.Wake // of put: the queue got shorter
	change lifecycle.Wake // of the emitter: something to send, or an outcome
}

type ackWaiter struct {
	seq  uint64
	done chan struct{}
}

// newOutbox starts behind a message log that already has everything up to acked.
func newOutbox(messagesMax, bytesMax int, acked uint64) *outbox {
	return &outbox{
		messagesMax: messagesMax, bytesMax: bytesMax, acked: acked, sent: acked,
		room: lifecycle.NewWake(), change: lifecycle.NewWake(),
	}
}

// put appends the next record. It waits while the outbox is full.
func (o *outbox) put(ctx context.Context, next Output) error {
	for {
		o.mu.Lock()
		if o.fits(next.Messages) {
			break
		}
		o.mu.Unlock()
		select {
		case <-o.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer o.mu.Unlock()
	if want := o.acked + uint64(len(o.queue)) + 1; next.Seq != want {
		return fmt.Errorf("%w: record %d put into the outbox where %d is next", ErrInvariant, next.Seq, want)
	}
	o.makeRoom()
	o.queue = append(o.queue, next)
	o.messages += next.Messages
	o.bytes += len(next.Data)
	o.change.Signal()
	return nil
}

// makeRoom moves the queue to the front of its space where there is no more at the end, and makes the space larger where the queue
// fills more than half of it. Called with mu held.
func (o *outbox) makeRoom() {
	if len(o.queue) < cap(o.queue) {
		return
	}
	before := o.queue
	if need := 2 * (len(before) + 1); need > cap(o.space) {
		o.space = make([]Output, 0, need)
	}
	full := o.space[:cap(o.space)]
	o.queue = full[:copy(full, before)]
	clear(full[len(o.queue):]) // what was moved down is not kept at its old place as well
}

// take appends to chunk the next records to send and counts them as sent. It
// gives none while enough are in flight, or when the chain is broken.
func (o *outbox) take(chunk []Output) ([]Output, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failed != nil {
		return chunk, o.failed
	}
	if len(o.ends) >= chunksInFlight {
		return chunk, nil
	}
	size := 0
	for i := int(o.sent - o.acked); i < len(o.queue) && len(chunk) < chunkRecordsMax && size < chunkBytesMax; i++ {
		chunk = append(chunk, o.queue[i])
		size += len(o.queue[i].Data)
	}
	if len(chunk) > 0 {
		o.sent += uint64(len(chunk))
		o.ends = append(o.ends, o.sent)
	}
	return chunk, nil
}

// fits is called with mu held.
func (o *outbox) fits(more int) bool {
	return len(o.queue) == 0 || (o.messages+more <= o.messagesMax && len(o.queue) < o.messagesMax && o.bytes < o.bytesMax)
}

// ack records the outcome of a chunk whose last record has this sequence.
func (o *outbox) ack(seq uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.change.Signal()
	switch {
	case seq <= o.acked || seq > o.sent:
		// Of a chunk from before a rewind; the tail that was read has said more.
	case err != nil:
		o.failed = err
	default:
		o.forget(seq)
	}
}

// forget drops what the message log has. Called with mu held.
func (o *outbox) forget(upTo uint64) {
	n := min(int(upTo-o.acked), len(o.queue))
	for i := range o.queue[:n] {
		o.messages -= o.queue[i].Messages
		o.bytes -= len(o.queue[i].Data)
		o.queue[i] = Output{}
	}
	o.queue = o.queue[n:]
	o.acked += uint64(n)
	o.sent = max(o.sent, o.acked)
	for len(o.ends) > 0 && o.ends[0] <= o.acked {
		o.ends = o.ends[1:]
	}
	waiting := o.waiting[:0]
	for _, w := range o.waiting {
		if w.seq > o.acked {
			waiting = append(waiting, w)
			continue
		}
		close(w.done)
	}
	o.waiting = waiting
	o.room.Signal()
}

// reached is closed when the message log has everything up to seq.
func (o *outbox) reached(seq uint64) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := ackWaiter{seq: seq, done: make(chan struct{})}
	if o.acked >= seq {
		close(w.done)
	} else {
		o.waiting = append(o.waiting, w)
	}
	return w.done
}

// rewind takes up sending again behind the tail that the message log really has.
// ackedBefore is what was acknowledged before the tail was read. It says
// errOutputLost where the outbox no longer holds what the log lacks.
func (o *outbox) rewind(t Tail, ackedBefore uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := o.acked + uint64(len(o.queue))
	if err := t.has(ackedBefore); err != nil {
		return err
	}
	if t.Seq > last {
		return fmt.Errorf("%w: it ends at %d, past record %d derived here; another sequencer is ahead", errOutputLost, t.Seq, last)
	}
	if t.Found && t.Seq > o.acked {
		if err := sameRecord(o.queue[t.Seq-o.acked-1].Data, t); err != nil {
			return err
		}
	}
	o.failed, o.ends = nil, nil
	if t.Seq > o.acked {
		o.forget(t.Seq)
	}
	o.sent = o.acked
	return nil
}

// sameRecord asserts that the message log's last record is the one derived.
func sameRecord(derived []byte, t Tail) error {
	if !bytes.Equal(derived, t.Data) {
		return &ForeignRecordError{Seq: t.Seq, Found: describe(t.Data), Want: describe(derived)}
	}
	return nil
}

// state gives how far things are: acknowledged, chunks in flight, last derived.
func (o *outbox) state() (acked uint64, inFlight int, last uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked, len(o.ends), o.acked + uint64(len(o.queue))
}

// waits is how many messages are derived and not acknowledged.
func (o *outbox) waits() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.messages
}
