package messagelog

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const (
	// A reader that gets nothing for this long, though the log has more, is replaced: consumers can stall. It
	// waits longer each time, for a broker that is only slow, and not to ask often about a log that is only quiet.
	stallWaitMin = 2 * time.Second
	stallWaitMax = 30 * time.Second
)

// course is how a log is read.
type course struct {
	// handle takes a record, and says whether it was the last one.
	handle func(Record) (end bool, err error)
	// left says, when no record has come for a while, whether the log has more from a sequence on: then the reader has
	// stalled. Or whether the end is reached.
	left func(next uint64) (more, end bool, err error)
	// waits: a broker that does not answer is waited for.
	waits bool
}

// Range reads the records from first to last that are there, and returns when it is through. Where
// subjects are given, only those; what they have at the end is found by asking.
func (l *Log) Range(ctx context.Context, first, last uint64, subjects []string, handle func(Record) error) error {
	last, err := l.lastOf(ctx, first, last, subjects)
	if err != nil || last < first {
		return err
	}
	return l.read(ctx, first, subjects, course{
		handle: func(r Record) (end bool, err error) {
			if r.Seq > last {
				return true, nil
			}
			return r.Seq == last, handle(r)
		},
		left: func(next uint64) (more, end bool, err error) {
			// The last one may have been deleted meanwhile, or the broker is slow.
			now, err := l.lastOf(ctx, next, last, subjects)
			last = min(now, last)
			return last >= next, last < next, err
		},
	})
}

// Follow reads the records from first on that are there, and then those that come, until ctx ends or handle fails.
// Where subjects are given, only those. Once it has begun, it waits for a broker that is away.
func (l *Log) Follow(ctx context.Context, first uint64, subjects []string, handle func(Record) error) error {
	return l.read(ctx, first, subjects, course{
		handle: func(r Record) (end bool, err error) { return false, handle(r) },
		left: func(next uint64) (more, end bool, err error) {
			now, err := l.lastOf(ctx, next, math.MaxUint64, subjects)
			if away(err) {
				return false, false, nil
			}
			return now >= next, false, err
		},
		waits: true,
	})
}

// away says whether an error is of a broker that does not answer now, and may again.
func away(err error) bool {
	var answer *jetstream.APIError
	if errors.As(err, &answer) {
		return answer.Code == http.StatusServiceUnavailable
	}
	return err != nil && !errors.Is(err, nats.ErrConnectionClosed)
}

// read hands over the records from first on, with a new reader where one stalls or breaks.
func (l *Log) read(ctx context.Context, first uint64, subjects []string, c course) error {
	reader, err := l.Read(ctx, first, subjects...)
	if err != nil {
		return err
	}
	defer func() { reader.Stop() }()
	for patience := stallWaitMin; ; {
		record, quiet, err := reader.within(ctx, patience)
		if err == nil && !quiet {
			if end, err := c.handle(record); err != nil || end {
				return err
			}
			first, patience = record.Seq+1, stallWaitMin
			continue
		}
		if err != nil && c.waits && away(err) {
			err = lifecycle.Pause(ctx, patience)
		}
		if err != nil {
			return err
		}
		more, end, err := c.left(first)
		if err != nil || end {
			return err
		}
		if more || !quiet {
			fresh, err := l.Read(ctx, first, subjects...)
			if err == nil {
				reader.Stop()
				reader = fresh
			} else if !c.waits || !away(err) {
				return err
			}
		}
		patience = min(2*patience, stallWaitMax)
	}
}

// within is Next for some time: quiet says that nothing came.
func (r *Reader) within(ctx context.Context, patience time.Duration) (record Record, quiet bool, err error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	record, err = r.Next(wait)
	if ctx.Err() != nil {
		return record, false, context.Cause(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) && wait.Err() != nil {
		return record, true, nil
	}
	return record, false, err
}
