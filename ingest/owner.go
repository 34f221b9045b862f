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
	// ownersAskTimeout is for one question to NATS about the bucket of the leases.
	ownersAskTimeout = 2 * time.Second
	// ownersPauseMin and ownersPauseMax bound the pauses between two watches, which double.
	ownersPauseMin = 250 * time.Millisecond
	ownersPauseMax = 2 * time.Second
)

// owner is what the sequencer of a partition said last in its lease.
type owner struct {
	lease.Owner
	at time.Time // when that came
}

// refuses reports whether the partition's owner refuses to serve it. A send that came now
// would be written and not answered. The word of an owner counts for its time to live.
func (p *partition) refuses() bool {
	o := p.owner.Load()
	return o != nil && o.Refused && o.refuses(time.Now())
}

func (o *owner) refuses(now time.Time) bool { return o != nil && o.Refused && now.Sub(o.at) < o.TTL }

// problem is the answer to a send that the partition did not take, or took.
func (p *partition) problem(became outcome) problem {
	if became != outcomePartitionRefused {
		return problem{outcome: became}
	}
	return problem{outcome: became, msg: fmt.Sprintf("partition %d is not served, because its logs or checkpoints are damaged or incomplete "+
		"(`sendhouse sequencer status` says more); nothing was written; channels of other partitions are served", p.number)}
}

// followOwners keeps known what the partitions' owners say in their leases, until ctx ends. While the leases cannot be watched
// this process is not ready, and a send to a partition that is refused is written, and answered 503 when no answer has come in time.
func (s *Service) followOwners(ctx context.Context) {
	pause, said := ownersPauseMin, ""
	for ctx.Err() == nil {
		seen, err := s.watchOwners(ctx)
		if seen {
			pause = ownersPauseMin
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != said && !errors.Is(err, jetstream.ErrBucketNotFound) && !errors.Is(err, errReconnected) { // once each; the first sequencer makes it
			said = err.Error()
			s.log.Warn("cannot watch the sequencers' leases; sends to a partition that is refused wait until their time is up; retrying", "error", err)
		}
		if lifecycle.Pause(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, ownersPauseMax)
	}
}

// errReconnected ends a watch that the server may have forgotten.
var errReconnected = errors.New("reconnected to NATS")

// watchOwners follows the leases until the watch breaks or the connection is made again; seen reports whether it had begun.
func (s *Service) watchOwners(ctx context.Context) (seen bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s.endWatch.Store(&end)
	asking, cancel := context.WithTimeout(ctx, ownersAskTimeout)
	defer cancel()
	kv, err := s.js.KeyValue(asking, topology.LeaseBucket)
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", topology.LeaseBucket, err)
	}
	err = lease.Watch(ctx, kv, lease.RoleSequencer, func(number int, o lease.Owner) {
		seen = true
		if number >= 0 && number < len(s.partitions) {
			s.partitions[number].see(o)
		}
	})
	return seen, err
}

// see takes in what the owner says of the partition in its lease.
func (p *partition) see(o lease.Owner) {
	before := p.owner.Load()
	p.owner.Store(&owner{Owner: o, at: time.Now()})
	switch was := before != nil && before.Refused; {
	case o.Refused && !was:
		p.log.Error("partition is refused by its sequencer; its sends are answered 503 at once", "partition", p.number, "error", o.Problem)
	case was && !o.Refused:
		p.log.Info("partition takes sends again", "partition", p.number)
	}
}
