package permission

import (
	"context"
	"errors"
	"time"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	// probeInterval and lagMax together bound how late a change is seen where the watch has
	// died without a word: the consumer's server is gone, and nobody says so for ten seconds.
	probeInterval = 250 * time.Millisecond
	lagMax        = 500 * time.Millisecond
	// deliveryTime is how long the watch may take before the leader is asked what is missing.
	deliveryTime = 100 * time.Millisecond
)

// probe asks the bucket again and again how far it is. Where the watch has come as far, or
// nothing is there behind it, the cache was complete when it was asked.
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
		return // follow is at it
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
		s.again() // it does not move at all
	}
}

// raiseLater raises the mark of what others have changed, who may have died before they did. If it fails, the next probe tries again.
func (s *Store) raiseLater(ctx context.Context) {
	if err := s.raise(ctx); err != nil && ctx.Err() == nil {
		if skipped, due := s.probeFaults.Due("mark"); due {
			s.log.Warn("cannot raise the mark by which a loss of permissions is noticed; retrying", "bucket", topology.DeploymentBucket, "key", markKey, "error", broker.Explain(err), "skipped", skipped)
		}
	}
}

// again asks for a new watch.
func (s *Store) again() {
	select {
	case s.restart <- struct{}{}:
	default:
	}
}

// confirm notes that a cache was complete at a time.
func (s *Store) confirm(c *cache, at time.Time) {
	s.confirmed.Store(int64(at.Sub(s.began)) + 1)
	s.usable.Store(true)
	if !c.complete.Swap(true) {
		s.log.Info("permissions are read", "channels", c.channels.Load(), "uids", c.members.Load())
	}
	s.once.Do(func() { close(s.ready) })
}

// fresh says whether the cache is fresh enough to be answered from.
func (s *Store) fresh() bool { return s.confirmed.Load() != 0 && s.age() <= s.staleMax }
