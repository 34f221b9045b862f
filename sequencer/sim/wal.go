package sim

import (
	"context"
	"errors"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

var (
	errBroker  = errors.New("sim: the broker does not answer")
	errFull    = errors.New("sim: the write-ahead log is full")
	errNothing = errors.New("sim: nothing to read now")
)

// wal is the write-ahead log. It syncs always: nothing that it has is lost.
type wal struct {
	records []runner.Record // all that there ever were; record n is at n-1
	first   uint64          // the first not yet trimmed
}

func (l *wal) last() uint64 { return uint64(len(l.records)) }

// bounds returns the size in records, of which the limit is also one.
func (w *world) bounds() runner.Bounds {
	b := runner.Bounds{First: w.wal.first, Last: w.wal.last()}
	b.Bytes, b.BytesMax = b.Last+1-b.First, uint64(w.plan.walRecords)
	return b
}

// publish is ingest's: the record is durable when it returns without error.
func (w *world) publish(data []byte, replyTo string) (uint64, error) {
	if !w.brokerUp() {
		return 0, errBroker
	}
	if int(w.wal.last()-w.wal.first)+1 >= w.plan.walRecords {
		return 0, errFull
	}
	seq := w.wal.last() + 1
	w.wal.records = append(w.wal.records, runner.Record{
		Record:  fold.Record{StreamSeq: seq, Time: w.recordTime(), Rule: w.rule(seq), Data: data},
		ReplyTo: replyTo,
	})
	return seq, nil
}

// rule is the one that ingest writes with a record. After the version that knows the newest has begun to write, an older one
// may write a record or two.
func (w *world) rule(seq uint64) int {
	if seq < w.plan.newRule || (seq < w.plan.newRule+10 && seq > w.plan.newRule && w.plan.newRule > 1 && w.chance(0.3)) {
		return 0
	}
	return message.RuleNewest
}

// recordTime is the time that the broker assigns to the next record.
func (w *world) recordTime() time.Time {
	at := w.brokerTime().Add(w.broker.odd)
	w.broker.odd = 0
	if w.wal.last()+1 < w.plan.newRule && !sane(at) {
		return w.brokerTime() // before, such a time was the end of the IDs
	}
	return at
}

// trim drops the records before first.
func (w *world) trim(first uint64) {
	if first <= w.wal.first {
		return
	}
	w.wal.first = min(first, w.wal.last()+1)
	w.check.recoverable(w, "the write-ahead log was trimmed")
}

// reader reads the write-ahead log as a consumer does that may start again, leave
// a record out, or fall silent.
type reader struct {
	w       *world
	next    uint64
	stalled bool
}

func (r *reader) Stop() {}

// Next does not block: if there is nothing to read it returns errNothing.
func (r *reader) Next(context.Context) (runner.Record, error) {
	w := r.w
	if !w.brokerUp() || r.stalled {
		return runner.Record{}, errNothing
	}
	r.next = max(r.next, w.wal.first)
	if !w.healed {
		switch {
		case w.chance(w.plan.readStall):
			r.stalled = true
			w.event("a reader falls silent before record %d", r.next)
			return runner.Record{}, errNothing
		case w.chance(w.plan.readBack):
			r.next = max(w.wal.first, r.next-min(r.next, 1+w.rand.Uint64N(4)))
		case w.chance(w.plan.readSkip):
			r.next++
		}
	}
	if r.next > w.wal.last() {
		return runner.Record{}, errNothing
	}
	r.next++
	return w.wal.records[r.next-2], nil
}

// wait is how long something takes on a network that is well.
func (w *world) wait() time.Duration { return w.upTo(5 * time.Millisecond) }
