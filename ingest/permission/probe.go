package permission

import (
	"context"
	"errors"
	"time"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	// probeInterval and lagMax together bound how late a change is seen if the watch has failed silently: when the consumer's
	// server is gone, the client is not notified for ten seconds.
	probeInterval = 250 * time.Millisecond
	lagMax        = 500 * time.Millisecond
	// deliveryTime is how long the watch may take before the leader is asked what is missing.
	deliveryTime = 100 * time.Millisecond
)

// probe asks the bucket repeatedly for its position. If the watch has reached it, or the bucket holds nothing after what
// the watch delivered, the cache was complete at the time of the question.
func (s *Store) probe(ctx context.Context) {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		s.probeOnce(ctx)
		s.usable.Store(s.fresh())
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) probeOnce(ctx context.Context) {
	watching := s.watching.Load()
	if watching == 0 {
		return // follow is already dealing with it
	}
	asked, before, cache := time.Now(), s.progress.now(), s.cache.Load()
	at, err := s.position(ctx)
	if err != nil {
		s.metrics.unconfirmed.Inc()
		return
	}
	if s.replaced(at, before) {
		s.again()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lagMax)
	defer cancel()
	if s.reach(ctx, at.last) == nil {
		if err := s.whole(ctx, cache); err != nil {
			s.metrics.unconfirmed.Inc()
			if !errors.Is(err, errUnsettled) && ctx.Err() == nil {
				if skipped, due := s.probeFaults.Due("confirm"); due {
					s.log.Warn("cannot confirm that the bucket of permissions has lost nothing; retrying", "bucket", topology.PermissionBucket, "error", broker.Explain(err), "skipped", skipped)
				}
			}
			return
		}
		s.confirm(cache, asked)
		s.raiseLater(ctx)
		return
	}
	s.metrics.unconfirmed.Inc()
	if s.watching.Load() == watching && s.progress.now() == before {
		s.again() // the watch makes no progress
	}
}

// raiseLater raises the mark for changes of other instances, which may have died before raising it. If it fails, the next
// probe retries.
func (s *Store) raiseLater(ctx context.Context) {
	if err := s.raise(ctx); err != nil && ctx.Err() == nil {
		if skipped, due := s.probeFaults.Due("mark"); due {
			s.log.Warn("cannot raise the mark that reveals a loss of permissions; retrying", "bucket", topology.DeploymentBucket, "key", markKey, "error", broker.Explain(err), "skipped", skipped)
		}
	}
}

// again requests a new watch.
func (s *Store) again() { s.restart.Signal() }

// confirm records that a cache was complete at a time.
func (s *Store) confirm(c *cache, at time.Time) {
	s.confirmed.Store(int64(at.Sub(s.began)) + 1)
	s.usable.Store(true)
	if !c.complete.Swap(true) {
		s.log.Info("permissions have been read", "channels", c.channels.Load(), "uids", c.members.Load())
	}
	s.once.Do(func() { close(s.ready) })
}

// fresh reports whether the cache is fresh enough to decide on sends.
func (s *Store) fresh() bool { return s.confirmed.Load() != 0 && s.age() <= s.staleMax }
