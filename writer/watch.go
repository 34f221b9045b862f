package writer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// stalledAfter is how many looks in a row must find a consumer that delivers nothing though the stream has
// more, before it is made anew. It happens (nats-server issues).
const stalledAfter = 3

// watch looks at the stream from time to time while a session reads it: for the lag, and for what the
// consumer would not notice. What it finds ends the session. It returns when ctx ends.
func (r *runner) watch(ctx context.Context, g *gatherer, created time.Time) {
	var seen uint64
	stalled := 0
	for lifecycle.Pause(ctx, r.timing.watch) == nil {
		next, received, blocked := g.progress()
		s, err := r.streamState(ctx)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			g.fail(err) // the consumer would wait for it in silence
			return
		}
		if err != nil {
			continue // NATS is away: the consumer waits for it by itself
		}
		r.showLag(ctx, s)
		switch {
		case !s.created.Equal(created):
			g.fail(fmt.Errorf("stream %s was made anew", r.stream))
			return
		case !s.gone && s.last+1 < next:
			g.fail(fmt.Errorf("stream %s: %w: read up to %d, last %d", r.stream, errBehind, next-1, s.last))
			return
		case blocked || s.gone || s.last+1 == next || received != seen:
			stalled = 0
		default:
			stalled++
		}
		seen = received
		if stalled >= stalledAfter {
			g.fail(fmt.Errorf("stream %s: %w: expected %d, last %d", r.stream, errStalled, next, s.last))
			return
		}
	}
}

// showLag shows how far the stream is ahead of what is in ClickHouse, and how far behind the position it begins.
func (r *runner) showLag(ctx context.Context, s streamState) {
	done := r.shown.Load()
	if s.gone {
		s.first, s.last = done+1, done
	}
	r.own.lagMessages.Set(float64(max(s.last, done) - done))
	r.own.retained.Set(float64(max(done+1, s.first) - s.first))
	if s.last <= done {
		r.own.oldest.none()
		return
	}
	if accepted, err := r.acceptedAt(ctx, max(done+1, s.first)); err == nil {
		r.own.oldest.accepted(accepted)
	} // else what was known goes on growing older, which is true as long as nothing was inserted
}

// acceptedAt is when the message at a place was accepted.
func (r *runner) acceptedAt(ctx context.Context, seq uint64) (time.Time, error) {
	entry, err := r.at(ctx, seq, r.shownIn.Load())
	if err != nil {
		return time.Time{}, err
	}
	at, err := message.ViewTime(entry.Data)
	if err != nil {
		return time.Time{}, fmt.Errorf("message %d of %s: %w", seq, r.stream, err)
	}
	return at, nil
}

// timing is how long the runner waits for what.
type timing struct {
	request    time.Duration // for an answer of NATS
	watch      time.Duration // between looks at the stream
	health     time.Duration // between looks at ClickHouse
	stop       time.Duration // for what has begun, when told to stop
	unsure     time.Duration // behind an insert that ClickHouse did not answer: until it can be taken to have ended, in or not
	backoffMin time.Duration
	backoffMax time.Duration
}

func defaultTiming(stop time.Duration) timing {
	return timing{request: 5 * time.Second, watch: 2 * time.Second, health: healthInterval, stop: stop, unsure: 2 * time.Minute, backoffMin: 100 * time.Millisecond, backoffMax: 5 * time.Second}
}

// backoff waits before another attempt: twice as long as before the last one, up to the most, and
// half of that at random, so that partitions do not all come at once. The error is that of ctx.
func (t timing) backoff(ctx context.Context, attempt int, _ error) error {
	wait := t.backoffMin << min(attempt, 16)
	if wait > t.backoffMax || wait <= 0 {
		wait = t.backoffMax
	}
	return lifecycle.Pause(ctx, wait/2+rand.N(wait/2+1))
}
