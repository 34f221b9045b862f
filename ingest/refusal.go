package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	// refusalAskTimeout is for one question to NATS about the bucket of the leases.
	refusalAskTimeout = 2 * time.Second
	// refusalPauseMin and refusalPauseMax bound the pauses between two watches, which double.
	refusalPauseMin = 250 * time.Millisecond
	refusalPauseMax = 30 * time.Second
)

// refused is the word of a partition's owner that it does not serve it. It counts until
// the lease would have expired.
type refused struct{ until time.Time }

// refuses reports whether the partition's owner refuses to serve it. A send that came now
// would be written and not answered.
func (p *partition) refuses() bool {
	r := p.refusal.Load()
	return r != nil && time.Now().Before(r.until)
}

// problem is the answer to a send that the partition did not take, or took.
func (p *partition) problem(became outcome) problem {
	if became != outcomePartitionRefused {
		return problem{outcome: became}
	}
	return problem{outcome: became, msg: fmt.Sprintf("partition %d is not served, because its logs or checkpoints are damaged or incomplete "+
		"(`sendhouse sequencer status` says more); nothing was written; channels of other partitions are served", p.number)}
}

// followRefusals keeps known which partitions their owners refuse, until ctx ends. If the
// leases cannot be watched, a send to such a partition is written, and answered 503 when
// no answer has come in time.
func (s *Service) followRefusals(ctx context.Context) {
	pause, said := refusalPauseMin, ""
	for ctx.Err() == nil {
		seen, err := s.watchRefusals(ctx)
		if seen {
			pause = refusalPauseMin
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != said && !errors.Is(err, jetstream.ErrBucketNotFound) { // once each; the first sequencer makes it
			said = err.Error()
			s.log.Warn("cannot watch the sequencers' leases; sends to a partition that is refused wait until their time is up; retrying", "error", err)
		}
		if lifecycle.Pause(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, refusalPauseMax)
	}
}

// watchRefusals follows the leases until the watch breaks; seen reports whether it had begun.
func (s *Service) watchRefusals(ctx context.Context) (seen bool, err error) {
	asking, cancel := context.WithTimeout(ctx, refusalAskTimeout)
	defer cancel()
	kv, err := s.js.KeyValue(asking, topology.LeaseBucket)
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", topology.LeaseBucket, err)
	}
	err = lease.Watch(ctx, kv, lease.RoleSequencer, func(number int, c lease.Condition, ttl time.Duration) {
		seen = true
		if number >= 0 && number < len(s.partitions) {
			s.partitions[number].see(c, ttl)
		}
	})
	return seen, err
}

// see takes in what the owner says of the partition in its lease.
func (p *partition) see(c lease.Condition, valid time.Duration) {
	before := p.refusal.Load()
	switch {
	case c.Refused:
		p.refusal.Store(&refused{until: time.Now().Add(valid)})
		if before == nil {
			p.log.Error("partition is refused by its sequencer; its sends are answered 503 at once", "partition", p.number, "error", c.Problem)
		}
	case before != nil:
		p.refusal.Store(nil)
		p.log.Info("partition takes sends again", "partition", p.number)
	}
}
