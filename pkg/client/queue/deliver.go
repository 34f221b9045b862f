package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/internal/journal"
)

// do does a job and releases its lanes.
func (q *Queue) do(ctx context.Context, j *job) {
	switch j.task {
	case taskSend:
		q.send(ctx, j)
	case taskCheck:
		q.check(ctx, j)
	case taskWindow:
		q.askWindow(ctx, j)
	}
}

// finish releases a job's lanes; then puts them where they belong, under the lock.
func (q *Queue) finish(j *job, then func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.probe {
		q.gate.probing = false
	}
	if j.doubt {
		q.doubters--
	}
	for _, one := range j.lanes {
		one.busy = false
	}
	then()
	q.wake()
}

// placeAll makes all lanes of a job ready.
func (q *Queue) placeAll(j *job) {
	for _, one := range j.lanes {
		q.place(one)
	}
}

// delayAll has all lanes of a job wait, since the disk does not take changes.
func (q *Queue) delayAll(j *job) {
	for _, one := range j.lanes {
		one.tries++
		q.later(one, q.cfg.backoff().Random(one.tries))
	}
}

// letter is one send on its way.
type letter struct {
	item
	no   string
	text []byte // its JSON
	lane *lane
	dead *DeadLetter // it is to be given up, and was not sent
}

// send marks the sends of a job, makes the request, and writes down what became of them.
func (q *Queue) send(ctx context.Context, j *job) {
	letters, err := q.read(j)
	if err == nil {
		err = q.begin(j)
	}
	if err != nil {
		q.finish(j, func() { q.delayAll(j) })
		return
	}
	encoded := make([]client.Encoded, 0, len(letters))
	for i := range letters {
		if letters[i].dead == nil {
			encoded = append(encoded, client.Encoded{ClientMsgNo: letters[i].no, JSON: letters[i].text})
		}
	}
	var outcomes []client.Outcome
	if len(encoded) > 0 {
		outcomes = q.cfg.Client.TryEncoded(ctx, encoded, client.TryOptions{Ordered: q.ordered(), Timeout: j.timeout})
	}
	q.settle(ctx, j, letters, outcomes)
}

func (q *Queue) ordered() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.window.Ordered
}

// read reads the sends of a job from the disk. What cannot be read, or has waited too long, is to be given up.
func (q *Queue) read(j *job) ([]letter, error) {
	letters := make([]letter, 0, j.sends())
	size := 0
	for _, run := range j.runs {
		for _, i := range run {
			size += int(i.at.Length)
		}
	}
	memory := make([]byte, 0, size)
	now := q.clock.nowMS()
	for n, run := range j.runs {
		for _, i := range run {
			l := letter{item: i, lane: j.lanes[n]}
			start := len(memory)
			body, err := q.record(i, memory[start:], l.lane.find)
			switch {
			case errors.Is(err, journal.ErrDamaged):
				l.dead = &DeadLetter{Reason: Damaged, Text: err.Error()}
			case err != nil:
				return nil, q.disk(err)
			default:
				memory = memory[:start+int(i.at.Length)]
				l.no, l.text = splitPut(body)
			}
			if age := time.Duration(now-msOf(i.number)) * time.Millisecond; q.cfg.AgeMax > 0 && age > q.cfg.AgeMax && l.dead == nil {
				l.dead = &DeadLetter{Reason: Expired, Text: "it waited longer than " + q.cfg.AgeMax.String()}
			}
			letters = append(letters, l)
		}
	}
	return letters, nil
}

// begin marks the sends on disk before the try.
func (q *Queue) begin(j *job) error {
	since := secondsOf(q.clock.nowMS())
	return q.commit(func(b *journal.Batch) {
		for n, run := range j.runs {
			if run[0].since == 0 {
				b.Add(kindMark, markRecord(j.lanes[n].key, run[0].number, run[len(run)-1].number, since))
			}
		}
	})
}

// op is a record to be written of the entries from first to last of a lane.
type op struct {
	kind        byte
	key         laneKey
	first, last uint64
	since       uint32
	text        []byte
}

func (o *op) add(b *journal.Batch) {
	switch o.kind {
	case kindMark:
		b.Add(kindMark, markRecord(o.key, o.first, o.last, o.since))
	case kindGone:
		b.Add(kindGone, goneRecord(o.key, o.last))
	case kindDead:
		b.Add(kindDead, itemHead(o.key, o.first, o.since), o.text)
	}
}

// verdict is what became of the sends of a job.
type verdict struct {
	ops     []op
	ends    []end
	failed  map[*lane]error // the error of the first send of the lane that is to be tried again
	reached bool
	err     error // of a request that failed for a reason that concerns all
}

// end is a send that leaves the queue, delivered or dead.
type end struct {
	number uint64
	result client.Result
	dead   *DeadLetter
}

// note adds an op, or lets the last one reach further.
func (v *verdict) note(o op) {
	if n := len(v.ops); n > 0 && o.kind != kindDead && v.ops[n-1].kind == o.kind && v.ops[n-1].key == o.key && v.ops[n-1].since == o.since {
		v.ops[n-1].last = o.last
		return
	}
	v.ops = append(v.ops, o)
}

// settle goes through the outcomes of a request. What has an end leaves the queue up to the first of its lane that has none; that one is tried
// again, and what is behind it, in order.
func (q *Queue) settle(ctx context.Context, j *job, letters []letter, outcomes []client.Outcome) {
	v := verdict{failed: make(map[*lane]error)}
	next := 0
	for i := range letters {
		l := &letters[i]
		var o client.Outcome
		if l.dead == nil {
			o = outcomes[next]
			next++
		}
		q.judge(&v, l, o)
	}
	q.conclude(ctx, &v)
	q.finish(j, func() { q.release(ctx, j, &v) })
}

// conclude writes down what became of sends, and tells of it. What was answered already is noted when the disk takes it, and not sent again before.
func (q *Queue) conclude(ctx context.Context, v *verdict) {
	fill := func(b *journal.Batch) {
		for i := range v.ops {
			v.ops[i].add(b)
		}
	}
	for tries := 1; q.commit(fill) != nil; tries++ {
		if q.fatal() != nil || q.cfg.backoff().Wait(ctx, tries) != nil {
			return // the marks on disk tell the next process that there is doubt
		}
	}
	for _, e := range v.ends {
		if e.dead == nil {
			q.resolve(e.number, e.result, nil)
			continue
		}
		d := *e.dead
		q.cfg.Logger.Warn("gave a send up", "reason", string(d.Reason), "client_msg_no", d.Send.ClientMsgNo, "dead_letter", d.Number, "error", d.Text)
		if q.cfg.OnDead != nil {
			q.cfg.OnDead(d)
		}
		q.resolve(e.number, client.Result{}, &DeadError{Letter: d})
	}
}

// judge decides on one send, after the ones before it.
func (q *Queue) judge(v *verdict, l *letter, o client.Outcome) {
	err := o.Err
	if l.dead == nil && (err == nil || !concernsAll(err)) {
		v.reached = true
	}
	switch {
	case v.failed[l.lane] != nil: // one before it is to be tried again, and then this one
	case l.dead != nil:
		q.bury(v, l, *l.dead)
		return
	case err == nil:
		if q.cfg.OnSent != nil {
			if e, err := entryOf(l.number, l.text); err == nil { // what was sent can be read
				q.cfg.OnSent(e, o.Result)
			}
		}
		v.note(op{kind: kindGone, key: l.lane.key, last: l.number})
		v.ends = append(v.ends, end{number: l.number, result: o.Result})
		return
	case client.IsRefused(err):
		q.bury(v, l, DeadLetter{Reason: Refused}.because(err))
		return
	default:
		v.failed[l.lane] = err
		if concernsAll(err) {
			v.err = err
		}
	}
	if l.since == 0 && (l.dead != nil || err != nil && !client.MaybeStored(err)) {
		v.note(op{kind: kindMark, key: l.lane.key, first: l.number, last: l.number})
	}
}

// release puts the lanes of a request where they belong. Under the lock.
func (q *Queue) release(ctx context.Context, j *job, v *verdict) {
	if v.reached {
		q.reached()
	} else if v.err != nil && ctx.Err() == nil {
		q.away(j, v.err)
	}
	sends := j.sends()
	for _, one := range j.lanes {
		err := v.failed[one]
		switch {
		case err == nil:
			one.tries, one.groupMax = 0, 0
			q.place(one)
		case concernsAll(err) && !v.reached && sends > 1:
			// Perhaps it is one of these that breaks the request: it is found by halves.
			one.groupMax = max(1, sends/2)
			q.place(one)
		default:
			one.tries++
			q.later(one, max(q.cfg.asked(err), q.cfg.backoff().Random(one.tries)))
		}
	}
}

// bury makes a dead letter of a send.
func (q *Queue) bury(v *verdict, l *letter, d DeadLetter) {
	d.Number, d.DiedAt, d.EnqueuedAt = l.number, time.Now(), time.UnixMilli(msOf(l.number))
	since := l.since
	if len(l.text) > 0 {
		if e, err := entryOf(l.number, l.text); err == nil {
			d.Send = e.Send
		}
	}
	if d.MaybeStored = since != 0; d.MaybeStored {
		d.MaybeStoredSince = time.Unix(int64(since), 0)
	}
	text, err := json.Marshal(d)
	if err != nil { // it came from JSON
		q.cfg.Logger.Error("cannot encode a dead letter", "error", err)
		text = []byte(`{}`)
	}
	v.ops = append(v.ops, op{kind: kindDead, key: l.lane.key, first: l.number, since: since, text: text})
	v.ends = append(v.ends, end{number: l.number, dead: &d})
}

// because fills in what the server said.
func (d DeadLetter) because(err error) DeadLetter {
	d.Text = err.Error()
	if answered := (*client.Error)(nil); errors.As(err, &answered) {
		d.Status, d.Code, d.Text = answered.Status, answered.Code, answered.Error()
	}
	return d
}

// check finds out what became of the first send of a lane, which the server may have forgotten.
func (q *Queue) check(ctx context.Context, j *job) {
	q.mu.Lock()
	one := j.lanes[0]
	j.runs = [][]item{{*one.first()}}
	q.mu.Unlock()
	letters, err := q.read(j)
	if err != nil {
		q.finish(j, func() { q.delayAll(j) })
		return
	}
	l := &letters[0]
	var e Entry
	if l.dead == nil {
		if e, err = entryOf(l.number, l.text); err != nil {
			l.dead = &DeadLetter{Reason: Damaged, Text: err.Error()}
		}
	}
	v := verdict{}
	if l.dead != nil {
		q.bury(&v, l, *l.dead)
		q.conclude(ctx, &v)
		q.finish(j, func() { q.placeAll(j) })
		return
	}
	found, result, err := q.cfg.Check(ctx, e.Send, time.Unix(int64(l.since), 0))
	if err != nil {
		q.cfg.Logger.Warn("cannot find out whether a send is stored; its channel waits", "client_msg_no", l.no, "error", err)
		q.finish(j, func() {
			if j.probe {
				q.away(j, err)
			}
			one.tries++
			q.later(one, max(q.cfg.asked(err), q.cfg.backoff().Random(one.tries)))
		})
		return
	}
	switch {
	case found == Stored:
		q.judge(&v, l, client.Outcome{Result: result})
	case found == NotStored:
		v.note(op{kind: kindMark, key: one.key, first: l.number, last: l.number})
	case q.cfg.RepeatUncertain:
		one.repeat = l.number
	default:
		q.bury(&v, l, DeadLetter{Reason: Uncertain,
			Text: "a try may have been stored, and the server may no longer know it: another could store it twice"})
	}
	q.conclude(ctx, &v)
	q.finish(j, func() {
		one.tries = 0
		q.place(one)
	})
}

// askWindow asks how far back the server remembers, and what order it keeps.
func (q *Queue) askWindow(ctx context.Context, j *job) {
	w, err := q.cfg.Client.Window(ctx)
	q.finish(j, func() {
		q.window.asking = false
		if w.Remembers == 0 {
			q.window.notYet = time.Now().Add(windowPause)
		}
		if err != nil && concernsAll(err) {
			q.away(j, err)
			return
		}
		if err != nil {
			q.cfg.Logger.Warn("cannot ask the server how far back it remembers; sends that may be stored wait", "error", err)
		}
		q.window.Window, q.window.at = w, time.Now()
	})
}

// concernsAll reports whether a failure would meet a send of another channel too: the server was not reached or did not answer, something before
// it answered, it is overloaded, or it does not take the token. Others are those of a partition or of the send.
func concernsAll(err error) bool {
	answered := (*client.Error)(nil)
	if !errors.As(err, &answered) {
		return true
	}
	switch answered.Code {
	case "overloaded", "draining":
		return true
	}
	return answered.Code == "" || answered.Status < http.StatusInternalServerError
}

// commit writes a transaction of a delivery.
func (q *Queue) commit(fill func(*journal.Batch)) error { return q.disk(q.journal.Commit(fill)) }

// disk takes what became of a change. The log gets the first that fails, and the first that does not any more. Deleted files end the queue.
func (q *Queue) disk(err error) error {
	switch {
	case err == nil:
		if q.diskFails.CompareAndSwap(true, false) {
			q.cfg.Logger.Info("the queue's disk takes changes again", "dir", q.cfg.Dir)
		}
		return nil
	case errors.Is(err, journal.ErrGone):
		q.fail(fmt.Errorf("queue: %w", err))
	case q.diskFails.CompareAndSwap(false, true):
		q.cfg.Logger.Error("the queue's disk takes no changes, and sends wait until it does; it may be full", "dir", q.cfg.Dir, "error", err)
	}
	return err
}
