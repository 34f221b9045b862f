package sim

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// crash is thrown through a call by an owner that ends there.
type crash struct{ o *owner }

// point is a moment in a call of an owner at which it may be killed, or paused for
// a while in which the others continue.
func (w *world) point(o *owner, op string) { w.pointOf(o, op, 1) }

// pointOf is a point where that is so many times as likely: in calls that are
// rare.
func (w *world) pointOf(o *owner, op string, times float64) {
	if w.healed {
		return
	}
	if w.chance(times * w.plan.crash) {
		w.event("owner %d is killed as it wants to %s", o.id, op)
		panic(crash{o})
	}
	if w.pauses >= pausesMax || !w.chance(times*w.plan.pause) {
		return
	}
	steps := 1 + w.rand.IntN(40)
	if w.chance(0.1 * times) { // long enough for a successor to store a checkpoint or two
		steps = w.rand.IntN(400)
	}
	w.event("owner %d is paused as it wants to %s", o.id, op)
	o.paused = true
	w.pauses++
	for range steps {
		w.doStep()
	}
	w.pauses--
	o.paused = false
	w.event("owner %d continues with %s", o.id, op)
	if o.killed {
		panic(crash{o})
	}
}

// trouble is a chance that is none when all is healed.
func (w *world) trouble(p float64) float64 {
	if w.healed {
		return 0
	}
	return p
}

// outputDown reports whether the message log takes and tells nothing at the moment.
func (w *world) outputDown() bool { return w.now < w.broker.outputUntil }

// troubled draws whether a call fails.
func (w *world) troubled() bool { return w.chance(w.trouble(w.plan.fail)) }

// logs are the streams, as one run of a partition by an owner sees them.
type logs struct {
	w      *world
	o      *owner
	closed bool
	onAck  func(streamSeq uint64, err error)
	// arrives is when the last record sent on the connection does; so the order is
	// kept.
	arrives time.Duration
}

func (l *logs) call(op string) error {
	l.w.point(l.o, op)
	if !l.w.brokerUp() || l.w.troubled() {
		return errBroker
	}
	return nil
}

func (l *logs) WALBounds(context.Context) (runner.Bounds, error) {
	if err := l.call("look at the write-ahead log"); err != nil {
		return runner.Bounds{}, err
	}
	return l.w.bounds(), nil
}

func (l *logs) WALMissing(context.Context, uint64) (uint64, error) { return 0, nil }

func (l *logs) ReadWAL(_ context.Context, from uint64) (runner.Reader, error) {
	if err := l.call("read the write-ahead log"); err != nil {
		return nil, err
	}
	return &reader{w: l.w, next: from}, nil
}

func (l *logs) TrimWAL(_ context.Context, first uint64) error {
	if err := l.call("trim the write-ahead log"); err != nil {
		return err
	}
	l.w.event("owner %d trims the write-ahead log before record %d", l.o.id, first)
	l.w.trim(first)
	return l.call("hear that the write-ahead log was trimmed")
}

func (l *logs) OutputTail(context.Context, uint64) (runner.Tail, error) {
	if err := l.call("look at the message log"); err != nil {
		return runner.Tail{}, err
	}
	if !l.w.log.exists || l.w.outputDown() {
		return runner.Tail{}, errBroker
	}
	t := l.w.tail()
	return t, l.call("hear of the message log's tail")
}

// OutputFrontLost never is the case: OutputTail knows what retention has dropped.
func (l *logs) OutputFrontLost(context.Context, uint64) (bool, error) { return false, nil }

func (l *logs) CutOutput(_ context.Context, last uint64) error {
	w := l.w
	if err := l.call("cut the message log"); err != nil {
		return err
	}
	if !w.log.exists || w.outputDown() || w.log.whole() != last || w.log.last() == last {
		return errBroker
	}
	w.event("owner %d cuts the message log after %d", l.o.id, last)
	w.cutAfter(last)
	return l.call("hear that the message log was cut")
}

func (l *logs) OutputTime(_ context.Context, seq uint64) (at time.Time, ok bool, err error) {
	if err := l.call("look at a record of the message log"); err != nil {
		return time.Time{}, false, err
	}
	if !l.w.log.exists || l.w.outputDown() {
		return time.Time{}, false, errBroker
	}
	at, ok = l.w.log.time(seq)
	return at, ok, l.call("hear of a record of the message log")
}

func (l *logs) OnAck(f func(streamSeq uint64, err error)) { l.onAck = f }

func (l *logs) Append(m *runner.Derived, ack bool) error { return l.send(m, m.StreamSeq-1, ack) }

// send puts a record on its way to the message log. The connection keeps the
// order; what is on it may be lost.
func (l *logs) send(m *runner.Derived, expected uint64, ack bool) error {
	w := l.w
	w.point(l.o, "append a record")
	if w.troubled() {
		return errBroker
	}
	if w.chance(w.trouble(w.plan.appendLost)) {
		w.event("record %d of owner %d is lost on its way", m.StreamSeq, l.o.id)
		return nil
	}
	delay := w.wait()
	if w.chance(w.trouble(w.plan.ackSlow) / 4) {
		delay = w.upTo(syncInterval)
	}
	l.arrives = max(l.arrives, w.now+delay)
	sent := *m
	w.send(l.arrives, func() { l.arrive(sent, expected, ack) })
	return nil
}

// arrive is the broker's side of send.
func (l *logs) arrive(m runner.Derived, expected uint64, ack bool) {
	w := l.w
	if !w.brokerUp() {
		if w.chance(0.5) { // the client had it in its buffer and sends it again
			w.send(w.broker.downUntil, func() { l.arrive(m, expected, ack) })
		}
		return
	}
	if w.outputDown() {
		return
	}
	seq, err := w.append(m, expected)
	if err != nil {
		w.event("record %d of owner %d is refused: %v", m.StreamSeq, l.o.id, err)
	} else if ack {
		w.event("records of owner %d up to %d are stored, the last as %d", l.o.id, m.StreamSeq, seq)
	}
	if ack {
		l.answer(m.StreamSeq, seq, err)
	}
}

// answer sends the outcome of an append back, or loses it, or repeats it later.
func (l *logs) answer(want, seq uint64, err error) {
	w := l.w
	if err == nil && seq != want {
		err = errWrongLast
	}
	deliver := func() { l.acknowledged(want, err) }
	if !w.chance(w.trouble(w.plan.ackLost)) {
		delay := w.wait()
		if w.chance(w.trouble(w.plan.ackSlow)) {
			delay = w.upTo(3 * outputAckTimeout)
		}
		w.send(w.now+delay, deliver)
	}
	if w.chance(w.trouble(w.plan.ackRepeated)) {
		w.send(w.now+w.upTo(20*time.Second), deliver)
	}
}

// acknowledged is the client's side of answer. A paused process reads it later.
func (l *logs) acknowledged(seq uint64, err error) {
	switch {
	case l.closed:
	case l.o.asleep():
		l.w.send(l.w.now+l.w.upTo(time.Second)+1, func() { l.acknowledged(seq, err) })
	case l.onAck != nil:
		l.onAck(seq, err)
		l.o.acked = l.w.now
	}
}

func (l *logs) Answer(subject string, answers []byte) error {
	w := l.w
	w.point(l.o, "answer")
	seq := w.check.answered(w, l.o, subject, answers)
	if w.troubled() {
		return errBroker
	}
	deliver := func() { w.client.answered(seq) }
	if w.brokerUp() && !w.chance(w.trouble(w.plan.answerLost)) {
		w.send(w.now+w.wait(), deliver)
	}
	if w.chance(w.trouble(w.plan.answerRepeated)) {
		w.send(w.now+w.upTo(20*time.Second), deliver)
	}
	return nil
}

func (l *logs) Live(subject string, data []byte) error {
	l.w.point(l.o, "publish a live message")
	l.w.check.live(l.w, subject, data)
	if l.w.troubled() {
		return errBroker
	}
	return nil
}
