package sim

import (
	"errors"
	"math"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/runner"
)

var (
	errWrongLast    = errors.New("sim: wrong last sequence")
	errNoResponders = errors.New("sim: no responders")
)

// anySeq as the expected sequence is no condition.
const anySeq = math.MaxUint64

// messageLog is the stream of messages. It is written without waiting for the
// disk: a crash takes what is younger than the sync interval, or less.
type messageLog struct {
	exists bool
	first  uint64
	kept   []stored // kept[i] is record first+i
	losses int      // of its tail, or of all of it
}

type stored struct {
	record runner.Output
	at     time.Duration
}

func (l *messageLog) last() uint64 { return l.first + uint64(len(l.kept)) - 1 }

// append stores a record where the last sequence is the expected one, as
// nats-server does it: with no exception, whether or not an answer is asked for.
func (w *world) append(m runner.Output, expected uint64) (uint64, error) {
	if !w.log.exists {
		return 0, errNoResponders
	}
	if last := w.log.last(); expected != anySeq && expected != last {
		return 0, errWrongLast
	}
	w.log.kept = append(w.log.kept, stored{record: m, at: w.now})
	w.check.stored(w, w.log.last(), &m)
	return w.log.last(), nil
}

// tail is the end of the log as its leader reports it.
func (w *world) tail() runner.Tail {
	t := runner.Tail{Seq: w.log.last()}
	if len(w.log.kept) == 0 {
		return t
	}
	t.Found, t.Data = true, w.log.kept[len(w.log.kept)-1].record.Data
	return t
}

// time is when the log took a record; zero where retention has dropped it.
func (l *messageLog) time(seq uint64) (at time.Time, ok bool) {
	switch {
	case seq > l.last():
		return time.Time{}, false
	case seq < l.first:
		return time.Time{}, true
	}
	return start().Add(l.kept[seq-l.first].at), true
}

// durable is the last sequence that no power loss at this moment could take.
func (w *world) durable() uint64 {
	n := len(w.log.kept)
	for n > 0 && w.log.kept[n-1].at > w.now-syncInterval {
		n--
	}
	return w.log.first + uint64(n) - 1
}

// cut is what a crash of the broker does: some of what a power loss may take is
// gone, or all of that.
func (w *world) cut() {
	durable, last := w.durable(), w.log.last()
	if durable == last {
		return
	}
	to := durable
	if w.chance(0.5) {
		to += w.rand.Uint64N(last - durable + 1)
	}
	if to == last {
		return
	}
	w.log.kept = w.log.kept[:to-w.log.first+1]
	w.log.losses++
	w.event("the message log is cut from %d to %d", last, to)
	w.check.recoverable(w, "the message log was cut")
}

// retain drops old records from the front, now and then all of them.
func (w *world) retain() {
	durable := w.durable()
	if durable < w.log.first {
		return
	}
	n := 1 + w.rand.Uint64N(durable-w.log.first+1)
	w.log.kept = append([]stored(nil), w.log.kept[n:]...)
	w.log.first += n
	w.event("retention drops %d records, the first is %d now", n, w.log.first)
}
