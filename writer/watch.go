package writer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// stalledAfter is the number of checks in succession that must find a consumer delivering nothing although the stream
// has more, before it is recreated. Bugs in nats-server can cause this.
const stalledAfter = 3

// watch checks the stream periodically while a session reads it: for the lag, and for failures that the consumer does
// not notice. A finding ends the session. It returns when ctx ends.
func (r *runner) watch(ctx context.Context, g *gatherer, created time.Time) {
	var seen uint64
	stalled := 0
	for lifecycle.Pause(ctx, r.timing.watch) == nil {
		next, received, blocked := g.progress()
		s, err := r.streamState(ctx)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			g.fail(err) // the consumer would wait for it silently
			return
		}
		if err != nil {
			continue // NATS is unreachable, and the consumer handles that
		}
		r.showLag(ctx, s)
		switch {
		case !s.created.Equal(created):
			g.fail(fmt.Errorf("stream %s was recreated", r.stream))
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

// showLag exports how far the stream is ahead of ClickHouse, and how far before the position it begins.
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
	} // else the known age keeps growing, which is right while nothing is inserted
}

// acceptedAt returns when a message was accepted.
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

// timing holds the runner's timeouts and intervals.
type timing struct {
	request time.Duration     // timeout of a NATS request
	watch   time.Duration     // interval between checks of the stream
	health  time.Duration     // interval between health checks of ClickHouse
	stop    time.Duration     // limit of work in progress on shutdown
	unsure  time.Duration     // after an insert without an answer: until it has certainly ended, whether it succeeded or not
	backoff lifecycle.Backoff // pauses between attempts
}

func defaultTiming(stop time.Duration) timing {
	return timing{request: 5 * time.Second, watch: 2 * time.Second, health: healthInterval, stop: stop, unsure: 2 * time.Minute, backoff: lifecycle.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second}}
}
