package sim

import (
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"time"
)

// allEvents are what the world may do to those in it, beside what each call and
// each message on the network risks.
func allEvents() []weighted {
	return []weighted{
		{10, killOwner},
		{4, leaveOwner},
		{10, sleepOwner},
		{6, blindOwner},
		{6, crashBroker},
		{4, powerLoss},
		{4, outputOutage},
		{8, jumpClock},
		{6, (*world).retain},
		{2, deleteMessageLog},
		{1, damageCheckpoint},
		{2, standStill},
	}
}

func (w *world) drawEvent() func(*world) {
	total := 0
	for _, e := range w.plan.events {
		total += e.weight
	}
	n := w.rand.IntN(total)
	for _, e := range w.plan.events {
		if n -= e.weight; n < 0 {
			return e.do
		}
	}
	return nil // not reached: n is below the total
}

func (w *world) anyOwner() *owner { return w.owners[w.rand.IntN(len(w.owners))] }

func killOwner(w *world) {
	o := w.anyOwner()
	w.event("owner %d is killed", o.id)
	o.kill()
}

// leaveOwner stops an owner as SIGTERM does.
func leaveOwner(w *world) {
	o := w.anyOwner()
	if o.lease == nil || o.asleep() {
		return
	}
	w.event("owner %d leaves", o.id)
	o.release()
	o.die()
}

// sleepOwner is SIGSTOP and SIGCONT.
func sleepOwner(w *world) {
	o := w.anyOwner()
	o.sleepUntil = w.now + w.upTo(45*time.Second)
	w.event("owner %d is paused until %s", o.id, o.sleepUntil)
}

// blindOwner cuts an owner off from the leases and stops the clock by which it
// would know that its own has ended.
func blindOwner(w *world) {
	o := w.anyOwner()
	o.blindUntil = w.now + w.upTo(3*time.Minute)
	w.event("owner %d does not see its lease until %s", o.id, o.blindUntil)
}

func crashBroker(w *world) {
	w.broker.downUntil = w.now + w.upTo(3*time.Second)
	w.event("the broker is killed; it is back at %s", w.broker.downUntil)
	w.check.powerLosses++
	w.crashLog()
}

// powerLoss takes the broker, and longer.
func powerLoss(w *world) {
	w.broker.downUntil = w.now + w.upTo(70*time.Second)
	w.event("the power fails; the broker is back at %s", w.broker.downUntil)
	w.check.powerLosses++
	w.crashLog()
	for _, o := range w.owners {
		if w.chance(0.5) {
			o.kill()
		}
	}
}

// outputOutage: the message log has no leader, and the rest of the broker is well.
func outputOutage(w *world) {
	w.broker.outputUntil = w.now + w.upTo(60*time.Second)
	w.event("the message log has no leader until %s", w.broker.outputUntil)
}

// jumpClock sets the broker's wall clock, a little or a lot, ahead or back, for good or for one record, or stops it.
func jumpClock(w *world) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	b := &w.broker
	b.frozen, b.odd = time.Time{}, 0
	about := func(by time.Duration) time.Duration { return w.upTo(2*by) - by }
	switch w.rand.IntN(12) {
	case 0:
		b.clockOff = 0
	case 1:
		b.clockOff += w.upTo(500 * day)
	case 2:
		b.clockOff -= w.upTo(5 * time.Hour)
	case 3:
		b.odd = about(400 * day)
	case 4:
		b.odd = []time.Duration{-50 * year, -6 * year, 65 * year, 200 * year}[w.rand.IntN(4)] // from 2025
	case 5:
		b.frozen = w.brokerTime()
	case 6:
		b.clockOff = []time.Duration{-4 * year, 100 * year}[w.rand.IntN(2)] // before the first ID, and after the last
		if w.wal.last() < w.plan.newRule {
			b.clockOff = 0
		}
	default:
		b.clockOff += about([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour}[w.rand.IntN(4)])
	}
	w.event("the broker's clock is off by %s, by %s more at the next record, and stands still: %t", b.clockOff, b.odd, !b.frozen.IsZero())
}

// deleteMessageLog: an operator deletes it, and it is made anew. That is only
// allowed while the write-ahead log is whole and nobody is about to trim it.
func deleteMessageLog(w *world) {
	if w.wal.first > 1 || w.pauses > 0 || !w.log.exists {
		return
	}
	w.event("the message log is deleted at %d", w.log.last())
	w.log = messageLog{first: 1, losses: w.log.losses + 1}
	w.send(w.now+w.upTo(5*time.Second), func() {
		w.event("the message log is made anew")
		w.log.exists = true
	})
}

func damageCheckpoint(w *world) {
	metas := w.store.metas
	switch n := w.rand.IntN(10); {
	case len(metas) > 0 && n < 7:
		w.store.damage(w, metas[0])
	case len(metas) > 1 && n < 9:
		w.store.damage(w, metas[1])
	default:
		for _, m := range metas {
			w.store.damage(w, m)
		}
	}
	w.check.hopeless = w.check.hopeless || (len(metas) > 0 && !slices.ContainsFunc(metas, w.store.whole))
}

// standStill: nobody does anything for a while.
func standStill(w *world) {
	d := w.upTo(90 * time.Second)
	w.event("everything stands still for %s", d)
	w.passTime(d)
}

// traceKept is the number of events that a failure shows.
const traceKept = 50

// trace keeps the last events of a run and a hash over all of them, by which two
// runs are known to be the same.
type trace struct {
	hash   uint64
	events int
	last   [traceKept]string
	out    io.Writer // gets every event, if set
	line   []byte
}

// add notes an event. The formatted line is hashed, so its arguments must not
// differ between replays: no pointers, no maps.
func (t *trace) add(at time.Duration, step int, format string, args ...any) {
	t.line = fmt.Appendf(t.line[:0], "%10.3fs %5d  ", at.Seconds(), step)
	t.line = fmt.Appendf(t.line, format, args...)
	sum := fnv.New64a()
	_, _ = sum.Write(t.line) // a hash takes everything
	t.hash = t.hash*0x100000001b3 ^ sum.Sum64()
	t.last[t.events%traceKept] = string(t.line)
	t.events++
	if t.out != nil {
		_, _ = fmt.Fprintf(t.out, "%s\n", t.line) // for reading only
	}
}

// tail gives the last events, oldest first.
func (t *trace) tail() []string {
	var lines []string
	for i := max(0, t.events-traceKept); i < t.events; i++ {
		lines = append(lines, t.last[i%traceKept])
	}
	return lines
}
