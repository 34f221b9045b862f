package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/internal/age"
)

// serve serves a lane that a worker has, and gives it back. An error ends the queue.
func (q *Queue) serve(ctx context.Context, one *lane) error {
	err := q.deliver(ctx, one)
	if errors.Is(err, errDisk) {
		q.lanes.undecided()
		one.tries++
		q.lanes.later(one, q.lanes.backoff(one.tries))
		return nil
	}
	return err
}

// deliver tries the first entry of a lane once, or takes it off the disk where that failed before, and gives the lane back. The error is
// the store's; then the lane is not given back.
func (q *Queue) deliver(ctx context.Context, one *lane) error {
	if one.leave != nil {
		q.lanes.undecided()
		return one.leave()
	}
	seq, record, err := q.store.head(one.key)
	if err != nil {
		return err
	}
	if record == nil {
		return fmt.Errorf("%d sends of a channel are counted, and none is there", one.pending)
	}
	one.seq = seq
	if q.diskFails.Load() {
		// Nothing is begun of which the end could not be written. Whether it can shows here.
		if err := q.mark(one); err != nil {
			return err
		}
	}
	e, err := unsealEntry(seq, record)
	if err != nil {
		q.lanes.undecided()
		return q.bury(one, seq, record, DeadLetter{Reason: Damaged, Text: err.Error(), Raw: record})
	}
	if !e.uncertainSince.IsZero() && (one.uncertainSince.IsZero() || e.uncertainSince.Before(one.uncertainSince)) {
		one.uncertainSince = e.uncertainSince
	}
	now := time.Now()
	if q.cfg.AgeMax > 0 && now.Sub(e.EnqueuedAt) > q.cfg.AgeMax {
		q.lanes.undecided()
		return q.bury(one, seq, record, DeadLetter{Reason: Expired, Text: "it waited longer than " + q.cfg.AgeMax.String()}.of(e, one))
	}
	if q.doubtful(one, now) {
		if settled, err := q.ask(ctx, one, e, record); settled || err != nil {
			return err
		}
	}
	return q.try(ctx, one, e, record)
}

// try tries an entry once.
func (q *Queue) try(ctx context.Context, one *lane, e *Entry, record []byte) error {
	if !one.marked {
		if err := q.mark(one); err != nil {
			return err
		}
	}
	start := time.Now()
	result, err := q.cfg.Client.Try(ctx, e.Send)
	if one.uncertainSince.IsZero() && (err == nil || client.MaybeStored(err)) {
		one.uncertainSince = start
	}
	if err == nil {
		q.reached()
		return q.sent(one, e, record, result)
	}
	if client.IsRefused(err) {
		q.reached()
		return q.bury(one, e.seq, record, DeadLetter{Reason: Refused}.of(e, one).because(err))
	}
	return q.failed(ctx, one, err)
}

// doubtful says whether another try could store the send a second time.
func (q *Queue) doubtful(one *lane, now time.Time) bool {
	if one.uncertainSince.IsZero() {
		return false
	}
	return age.Of(one.uncertainSince, now) > q.cfg.ResendWithin
}

// ask finds out what became of a doubtful send. It is settled where the lane has been given back; otherwise the send is to be tried.
func (q *Queue) ask(ctx context.Context, one *lane, e *Entry, record []byte) (settled bool, err error) {
	verdict, result, failure := q.cfg.Check(ctx, e.Send, one.uncertainSince)
	if failure != nil {
		q.cfg.Logger.Warn("it cannot be found out whether a send is stored; the channel waits", "client_msg_no", e.Send.ClientMsgNo, "error", failure)
		q.lanes.undecided()
		one.tries++
		q.lanes.later(one, max(client.RetryAfter(failure), q.lanes.backoff(one.tries)))
		return true, nil
	}
	switch {
	case verdict == Stored:
		q.reached()
		return true, q.sent(one, e, record, result)
	case verdict == NotStored:
		// The next try is the first that counts, and the mark on disk is to be of it.
		one.uncertainSince, one.marked = time.Time{}, false
		return false, nil
	case q.cfg.RepeatUncertain:
		return false, nil
	default:
		q.lanes.undecided()
		return true, q.bury(one, e.seq, record, DeadLetter{Reason: Uncertain,
			Text: "a try may have been stored, and the server may no longer know it: another could store it twice"}.of(e, one))
	}
}

// sent takes an entry out that the server has.
func (q *Queue) sent(one *lane, e *Entry, record []byte, result client.Result) error {
	if q.cfg.OnSent != nil {
		q.cfg.OnSent(*e, result)
	}
	seq, size := e.seq, entryBytes(record)
	one.leave = func() error {
		if err := q.disk(q.store.remove(one.key, seq, time.Now())); err != nil {
			return err
		}
		q.left(one, size)
		return nil
	}
	return one.leave()
}

// left gives a lane back whose first entry is gone.
func (q *Queue) left(one *lane, bytes int64) {
	q.entries.Add(-1)
	q.bytes.Add(-bytes)
	// The next one, if there is one, was marked in the same transaction.
	one.seq, one.uncertainSince, one.tries, one.leave = 0, time.Time{}, 0, nil
	one.marked, one.markedAt = true, time.Now()
	q.lanes.done(one)
}

// bury makes a dead letter of an entry.
func (q *Queue) bury(one *lane, seq uint64, record []byte, d DeadLetter) error {
	d.DiedAt = time.Now()
	text, err := seal(d)
	if err != nil {
		return err
	}
	size := entryBytes(record)
	one.leave = func() error {
		id, err := q.store.bury(one.key, seq, text, time.Now(), d.ID)
		d.ID = id
		if err := q.disk(err); err != nil {
			return err
		}
		q.deadLetters.Add(1)
		q.bytes.Add(int64(seqBytes + len(text)))
		q.cfg.Logger.Warn("a send was given up", "reason", string(d.Reason), "client_msg_no", d.Send.ClientMsgNo, "dead_letter", d.ID, "error", d.Text)
		if q.cfg.OnDead != nil {
			q.cfg.OnDead(d)
		}
		q.left(one, size)
		return nil
	}
	return one.leave()
}

// of fills in whose dead letter it is.
func (d DeadLetter) of(e *Entry, one *lane) DeadLetter {
	d.Send, d.EnqueuedAt, d.MaybeStored = e.Send, e.EnqueuedAt, !one.uncertainSince.IsZero()
	return d
}

// because fills in what the server said.
func (d DeadLetter) because(err error) DeadLetter {
	d.Text = err.Error()
	if answered := (*client.Error)(nil); errors.As(err, &answered) {
		d.Status, d.Code, d.Text = answered.Status, answered.Code, answered.Error()
	}
	return d
}

// reached notes that the server answers.
func (q *Queue) reached() {
	if q.lanes.reached() {
		q.cfg.Logger.Info("the server takes sends again")
	}
}

// failed gives a lane back that is to be tried later: with all others where the trouble is everybody's, or by itself.
func (q *Queue) failed(ctx context.Context, one *lane, err error) error {
	one.tries++
	asked := client.RetryAfter(err)
	if !concernsAll(err) {
		q.reached()
		if one.sure() && age.Of(one.markedAt, time.Now()) > q.cfg.ResendWithin/4 {
			if err := q.unmark([]*lane{one}); err != nil {
				return err
			}
		}
		q.lanes.later(one, max(asked, q.lanes.backoff(one.tries)))
		return nil
	}
	if q.lanes.away(one, asked) && ctx.Err() == nil {
		q.cfg.Logger.Warn("the server does not take sends, all channels wait", "error", err)
	}
	// This may last. If the process dies meanwhile, the next one shall not have doubts about sends that nobody has tried.
	parked := q.lanes.park()
	defer q.lanes.unpark(parked)
	return q.unmark(parked)
}

// concernsAll says whether a failure would meet a send of another channel too: the server was not reached or did not answer, something before
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
