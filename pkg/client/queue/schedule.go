package queue

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/internal/age"
)

// What a worker can be given to do.
type task int

const (
	taskSend   task = iota
	taskCheck       // ask what became of the first send of the lane
	taskWindow      // ask how far back the server remembers
)

// job is what a worker does next.
type job struct {
	task    task
	lanes   []*lane
	runs    [][]item      // of each lane, the items to be sent
	timeout time.Duration // of the request; 0: the Client's own
	probe   bool
	doubt   bool // it is about doubtful sends
}

func (j *job) sends() (n int) {
	for _, run := range j.runs {
		n += len(run)
	}
	return n
}

// gate is shut while the server takes nothing. Then one job at a time goes through, of one send, to see whether that has changed.
type gate struct {
	tries   int // failures in a row; 0: it is open
	at      time.Time
	since   time.Time
	probing bool
	err     error
}

// How old what the server said of its window may be.
const (
	windowAsked = 30 * time.Second // for the order in a bulk; see age.WindowTrusted
	windowPause = time.Second      // after a question in vain
	resendMin   = time.Second      // a request of less time is not begun
)

// window is what the server said of it last.
type window struct {
	client.Window
	at     time.Time // zero: it has not said anything
	asking bool
	notYet time.Time // no question before
}

// next waits for something to do. It returns nil when ctx ends.
func (q *Queue) next(ctx context.Context) *job {
	for ctx.Err() == nil {
		q.mu.Lock()
		j, at := q.take(time.Now())
		changed := q.changed
		q.mu.Unlock()
		if j != nil {
			return j
		}
		wait := time.Hour
		if !at.IsZero() {
			wait = time.Until(at)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// take returns what can be done now; or nil, and when to look again (zero: when something has changed). Under the lock.
func (q *Queue) take(now time.Time) (*job, time.Time) {
	q.due(now)
	var at time.Time
	look := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if len(q.waiting) > 0 {
		look(q.waiting[0].at)
	}
	shut := q.gate.tries > 0
	if len(q.ready)+len(q.doubtful) == 0 || q.gate.probing {
		return nil, at
	}
	if shut && q.gate.at.After(now) {
		look(q.gate.at)
		return nil, at
	}
	j := q.choose(now, look)
	if j == nil {
		return nil, at
	}
	j.probe = shut
	q.gate.probing = shut
	return j, time.Time{}
}

// choose picks a job. Look receives the time at which there may be another.
func (q *Queue) choose(now time.Time, look func(time.Time)) *job {
	since := age.Of(q.window.at, now)
	trusted := since <= age.WindowTrusted && q.remembers() > 0
	if stale := since > windowAsked || len(q.doubtful) > 0 && !trusted; stale && !q.window.asking {
		if !q.window.notYet.After(now) {
			q.window.asking = true
			return &job{task: taskWindow}
		}
		look(q.window.notYet)
	}
	if doubt := q.gate.tries == 0 || len(q.ready) == 0; doubt && len(q.doubtful) > 0 && q.doubters < q.doubtersMax() && trusted {
		q.doubters++
		j := q.chooseDoubtful()
		j.doubt = true
		return j
	}
	if len(q.ready) == 0 || q.window.at.IsZero() {
		return nil
	}
	return q.collect(&q.ready, func(*lane) bool { return true })
}

// doubtersMax is how many workers may be busy with doubtful sends: the others are for those that are not.
func (q *Queue) doubtersMax() int { return max(1, q.cfg.Workers/4) }

// chooseDoubtful picks doubtful sends that the server surely remembers, to be sent again; or one that it may have forgotten, to be asked for.
func (q *Queue) chooseDoubtful() *job {
	if left := q.remembered(q.doubtful[0]); left < resendMin {
		return &job{task: taskCheck, lanes: []*lane{grab(&q.doubtful)}}
	}
	timeout := q.remembers()
	j := q.collect(&q.doubtful, func(one *lane) bool {
		left := q.remembered(one)
		if left >= resendMin {
			timeout = min(timeout, left)
		}
		return left >= resendMin
	})
	j.timeout = timeout
	return j
}

// remembers is for how long the server surely knows a send; 0: that is not known yet.
func (q *Queue) remembers() time.Duration {
	return age.ResendWithin(q.window.Remembers, q.cfg.ResendWithin)
}

// remembered is for how long the server surely still knows the first send of a lane.
func (q *Queue) remembered(one *lane) time.Duration {
	age := q.clock.nowMS() - int64(one.first().since)*1000
	return q.remembers() - time.Duration(age)*time.Millisecond
}

// collect takes lanes off a list, as many as fit and go, and the sends for one request.
func (q *Queue) collect(list *[]*lane, fits func(*lane) bool) *job {
	j := &job{task: taskSend}
	room, bytes := q.cfg.BatchItemsMax, q.cfg.BatchBytesMax
	share := 1
	if q.window.Ordered {
		// Runs are so long that the channels suffice for half of the workers: a request that took one send of each would leave nothing to the others.
		share = max(1, room*max(1, q.cfg.Workers/2)/len(*list))
	}
	if q.gate.tries > 0 {
		room, share = 1, 1
	}
	for sends := 0; len(*list) > 0 && sends < room && bytes > 0; {
		one := (*list)[0]
		if one.groupMax > 0 {
			if sends+1 > one.groupMax {
				break
			}
			room = min(room, one.groupMax)
		}
		if !fits(one) {
			break
		}
		doubtful, most := one.first().since != 0, share
		if one.first().number == one.repeat {
			most = 1
		}
		var run []item
		one.all(0, func(i *item) bool {
			if len(run) > 0 && (len(run) >= most || sends >= room || bytes < int(i.at.Length) || doubtful != (i.since != 0)) {
				return false
			}
			run = append(run, *i)
			bytes -= int(i.at.Length)
			sends++
			return true
		})
		j.lanes, j.runs = append(j.lanes, grab(list)), append(j.runs, run)
	}
	return j
}

// reached notes that the server answers. Lanes that have failed for its absence need not wait any more. After a single failure they do: that
// was perhaps the send's own.
func (q *Queue) reached() {
	if q.gate.tries == 0 {
		return
	}
	q.cfg.Logger.Info("the server takes sends again", "shut_for", time.Since(q.gate.since).Round(time.Millisecond))
	again, since := q.gate.tries > 1, q.gate.since
	q.gate = gate{}
	if again {
		q.hurry(since)
	}
	q.wake()
}

// away shuts the gate, or keeps it shut for longer.
func (q *Queue) away(j *job, err error) {
	if q.gate.tries > 0 && !j.probe {
		return // of requests that fail at one time only the first counts
	}
	now := time.Now()
	if q.gate.tries == 0 {
		q.gate.since = now
		q.cfg.Logger.Warn("the server does not take sends; all channels wait", "error", err)
	}
	q.gate.tries++
	q.gate.at = now.Add(max(q.cfg.asked(err), q.cfg.backoff().Random(q.gate.tries)))
	q.gate.err = err
	q.wake()
}

// asked is how long the server asks to wait, as far as that is heeded.
func (c Config) asked(err error) time.Duration { return min(client.RetryAfter(err), c.RetryAfterMax) }
