package sim

import (
	"errors"
	"math"
	"slices"
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
// disk: a crash takes any part of what is younger than the sync interval.
type messageLog struct {
	exists bool
	first  uint64
	kept   []stored // kept[i] is record first+i
	losses int      // of a part of it, or of all of it
}

type stored struct {
	record runner.Derived
	at     time.Duration
	lost   bool // taken by a crash, which left a newer one
}

func (l *messageLog) last() uint64 { return l.first + uint64(len(l.kept)) - 1 }

// append stores a record where the last sequence is the expected one, as
// nats-server does it: with no exception, whether or not an answer is asked for.
func (w *world) append(m runner.Derived, expected uint64) (uint64, error) {
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

// whole is the last sequence before which no record is missing.
func (l *messageLog) whole() uint64 {
	if i := slices.IndexFunc(l.kept, func(s stored) bool { return s.lost }); i >= 0 {
		return l.first + uint64(i) - 1
	}
	return l.last()
}

// tail is the end of the log as its leader reports it.
func (w *world) tail() runner.Tail {
	l := &w.log
	t := runner.Tail{StreamSeq: l.whole()}
	if t.StreamSeq < l.last() {
		t.Beyond = l.last()
	}
	if t.StreamSeq >= l.first {
		t.Found, t.Data = true, l.kept[t.StreamSeq-l.first].record.Data
	}
	return t
}

// time is when the log took a record; zero where retention has dropped it.
func (l *messageLog) time(seq uint64) (at time.Time, ok bool) {
	switch {
	case seq > l.last():
		return time.Time{}, false
	case seq < l.first:
		return time.Time{}, true
	case l.kept[seq-l.first].lost:
		return time.Time{}, false
	}
	return start().Add(l.kept[seq-l.first].at), true
}

// cutAfter removes all after a record.
func (w *world) cutAfter(last uint64) {
	w.log.kept = w.log.kept[:last+1-w.log.first]
	w.log.losses++
	w.check.recoverable(w, "the message log was cut by an owner")
}

// durable is the last sequence up to which no power loss at this moment could take
// anything.
func (w *world) durable() uint64 {
	n := len(w.log.kept)
	for n > 0 && w.log.kept[n-1].at > w.now-syncInterval {
		n--
	}
	return min(w.log.first+uint64(n)-1, w.log.whole())
}

// crashLog is what a crash of the broker does to the log: some of what a power loss may
// take is gone, or all of that; of a tail, or of any part.
func (w *world) crashLog() {
	durable, last := w.durable(), w.log.last()
	if durable == last {
		return
	}
	to := durable
	if w.chance(0.5) {
		to += w.rand.Uint64N(last - durable + 1)
	}
	if w.chance(0.5) { // holes before the tail
		for seq := durable + 1; seq <= to; seq++ {
			if kept := &w.log.kept[seq-w.log.first]; kept.at > w.now-syncInterval && w.chance(0.3) {
				kept.lost = true
			}
		}
	}
	for to > durable && w.log.kept[to-w.log.first].lost {
		to--
	}
	if to == last && w.log.whole() == last {
		return
	}
	w.log.kept = w.log.kept[:to+1-w.log.first]
	w.log.losses++
	w.event("the message log is cut from %d to %d, and whole up to %d", last, to, w.log.whole())
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
	for len(w.log.kept) > 0 && w.log.kept[0].lost { // the broker's first record is one that it has
		w.log.kept, w.log.first = w.log.kept[1:], w.log.first+1
	}
	w.event("retention drops %d records, the first is %d now", n, w.log.first)
}
