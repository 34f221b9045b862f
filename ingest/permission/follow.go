package permission

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	askTimeout   = time.Second            // for one request to NATS
	watchTimeout = 2 * time.Second        // to start a watch, and to stop one
	followPause  = 250 * time.Millisecond // between two attempts to watch
	// notWholePause is the pause after the whole bucket was read and is incomplete. The server may be lagging.
	notWholePause = 2 * time.Second
)

var errWatchEnded = errors.New("the watch ended")

// follow keeps a watch on the bucket until ctx ends. It is the only writer of the cache.
func (s *Store) follow(ctx context.Context) {
	var faults lifecycle.Repeated
	for ctx.Err() == nil {
		err := s.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		s.metrics.watches.Inc()
		if err == nil { // a new watch was requested
			continue
		}
		pause := followPause
		if errors.Is(err, ErrNotWhole) {
			pause = notWholePause
			s.forget() // so that the whole bucket is read again
		}
		if skipped, due := faults.Due("watch"); due {
			s.log.Warn("cannot watch the permissions; retrying", "error", broker.Explain(err), "skipped", skipped)
		}
		_ = lifecycle.Pause(ctx, pause) // the loop ends with ctx
	}
}

// watch applies updates until ctx ends or a new watch is requested. It starts after the last message applied.
func (s *Store) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-s.restart: // drops a request meant for the previous watch
	default:
	}
	asked, before := time.Now(), s.progress.now()
	at, err := s.position(ctx)
	if err != nil {
		return err
	}
	if s.replaced(at, before) {
		s.log.Warn("the bucket of permissions was replaced or rolled back; reading it from the start", "bucket", topology.PermissionBucket)
		s.forget()
	}
	s.created.Store(at.created.UnixNano())
	updates, stop, err := s.open(ctx, cancel)
	if err != nil {
		return err
	}
	defer stop()
	s.watches++
	s.watching.Store(s.watches)
	defer s.watching.Store(0)
	cache := s.cache.Load()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.restart:
			return nil
		case entry, open := <-updates:
			switch {
			case !open:
				return errWatchEnded
			case entry == nil:
				// The watch has delivered everything that its server has. If the leader has more, or the newest messages are gone, probe
				// finds out which.
				if s.progress.now() >= at.last {
					switch err := s.whole(ctx, cache); {
					case err == nil:
						s.confirm(cache, asked)
					case errors.Is(err, ErrNotWhole):
						return err
					} // otherwise probe asks again
				}
			default:
				s.apply(entry)
				s.progress.advance(entry.Revision())
			}
		}
	}
}

// errUnsettled: the bucket is being changed, so its keys cannot be counted.
var errUnsettled = errors.New("the bucket of permissions is being changed")

// whole rejects a cache with fewer keys than the leader counts in the bucket: the server silently skips messages that it
// cannot read. A bucket that was written and is now empty was purged, since records are replaced and never removed. It
// also rejects a bucket with less than its mark. It runs before a cache is used for the first time.
func (s *Store) whole(ctx context.Context, cache *cache) error {
	if cache.complete.Load() {
		return nil
	}
	stored, err := readMark(ctx, s.js) // before the position, which only grows
	if err != nil {
		return err
	}
	applied, counted := s.progress.now(), uint64(cache.channels.Load()+s.others.Load())
	at, err := s.position(ctx)
	if err != nil {
		return err
	}
	if at.last > applied { // otherwise the newest messages are gone
		if missing, err := s.missing(ctx); err != nil || missing {
			return errors.Join(errUnsettled, err)
		}
	}
	var problem error
	shortfall := stored.shortfall(at.created, cache.extent())
	switch {
	case at.keys == 0 && at.last > 0:
		problem = fmt.Errorf("%w: it was emptied", ErrNotWhole)
	case counted < at.keys:
		problem = fmt.Errorf("%w: %d of %d keys can be read", ErrNotWhole, counted, at.keys)
	case shortfall != nil:
		problem = fmt.Errorf("%w: %w", ErrNotWhole, shortfall)
	default:
		s.reportMark(stored)
		s.notWhole.Store(nil)
		return s.renew(ctx, stored, at.created)
	}
	s.notWhole.Store(&problem)
	return problem
}

// open starts a watch. ctx lasts for the whole life of the watch; cancel ends it.
func (s *Store) open(ctx context.Context, cancel func()) (updates <-chan jetstream.KeyValueEntry, stop func(), err error) {
	late := time.AfterFunc(watchTimeout, cancel)
	defer late.Stop()
	kv, err := s.js.KeyValue(ctx, topology.PermissionBucket)
	if err != nil {
		return nil, nil, fmt.Errorf("open bucket %s: %w", topology.PermissionBucket, err)
	}
	var options []jetstream.WatchOpt
	if applied := s.progress.now(); applied > 0 {
		options = append(options, jetstream.ResumeFromRevision(applied+1))
	}
	watcher, err := kv.WatchAll(ctx, options...)
	if err != nil {
		return nil, nil, fmt.Errorf("watch bucket %s: %w", topology.PermissionBucket, err)
	}
	return watcher.Updates(), func() {
		_ = watcher.Stop() // fails only if the connection, and with it the watch, has ended
		closed := time.After(watchTimeout)
		for {
			select {
			case _, open := <-watcher.Updates(): // it may be blocked delivering one more
				if !open {
					return
				}
			case <-closed:
				s.log.Warn("a watch on the permissions did not stop", "timeout", watchTimeout)
				return
			}
		}
	}, nil
}

// forget empties the cache, because it no longer matches the bucket.
func (s *Store) forget() {
	s.usable.Store(false)
	s.cache.Store(newCache())
	s.loose.clear()
	s.others.Store(0)
	s.progress.reset()
}

// apply applies one message of the bucket to the cache.
func (s *Store) apply(entry jetstream.KeyValueEntry) {
	key, err := parseKey(entry.Key())
	if err != nil {
		s.metrics.damaged.Inc()
		s.others.Add(1)
		s.log.Warn("unexpected key in the bucket of permissions", "bucket", topology.PermissionBucket, "error", err)
		return
	}
	stored := entry.Operation() == jetstream.KeyValuePut
	if key.isPage {
		s.others.Add(1)
		if stored {
			s.applyPage(key, entry)
		}
		return
	}
	cache := s.cache.Load()
	defer cache.reached(entry.Revision())
	if !stored { // by hand: a record is replaced, and never deleted. Whom it refused is no longer known
		s.metrics.damaged.Inc()
		s.log.Error("the permissions of a channel were deleted; no one can send to it until it is defined again", "bucket", topology.PermissionBucket, "key", entry.Key(), "revision", entry.Revision())
		cache.put(key.channel, &Policy{flags: damaged, revision: entry.Revision()})
		return
	}
	old := cache.Policy(key.channel)
	policy, err := readPolicy(entry.Value(), entry.Revision(), func(id uint64) *page {
		if p := s.loose.take(id); p != nil {
			return p
		}
		return old.page(id)
	})
	if err != nil {
		s.metrics.damaged.Inc()
		s.log.Error("the permissions of a channel are damaged; no one can send to it", "bucket", topology.PermissionBucket, "key", entry.Key(), "revision", entry.Revision(), "error", err)
	}
	if policy.isEmpty() { // an empty policy is the same as none
		s.others.Add(1) // but the key exists
		cache.remove(key.channel)
		return
	}
	if key.channel != SystemAccounts() && key.channel.Rule() != "" {
		s.log.Warn("a channel in the bucket of permissions has a name that requests cannot have", "bucket", topology.PermissionBucket, "key", entry.Key(), "rule", key.channel.Rule())
	}
	for l := range lists {
		if set := policy.List(l); set != nil && set.inline() {
			s.checkNames(entry.Key(), l, set.All())
		}
	}
	cache.put(key.channel, policy)
}

// checkNames warns of uids that requests cannot have. They were not written through the API, or under another rule.
func (s *Store) checkNames(key string, l List, uids iter.Seq[string]) {
	count, first, broken := 0, "", ""
	for uid := range uids {
		if rule := message.UIDRule(uid, 0); rule != "" {
			if count++; count == 1 {
				first, broken = uid, rule
			}
		}
	}
	if count > 0 {
		s.log.Warn("uids in the bucket of permissions break the rule of uids; remove them with the route of their list that ends in _remove",
			"bucket", topology.PermissionBucket, "key", key, "list", l.String(), "uids", count, "first", first, "rule", broken)
	}
}

func (s *Store) applyPage(key parsedKey, entry jetstream.KeyValueEntry) {
	p, err := readPage(entry.Value())
	if err != nil {
		s.metrics.damaged.Inc()
		s.log.Error("a page of a channel's permissions is damaged", "bucket", topology.PermissionBucket, "key", entry.Key(), "error", err)
		return
	}
	s.checkNames(entry.Key(), key.list, p.all())
	s.loose.add(key, p, entry.Created())
}

// page returns the page with an id, or nil.
func (p *Policy) page(id uint64) *page {
	for l := range lists {
		if set := p.List(l); set != nil {
			for _, leaf := range set.leaves {
				if leaf.id == id {
					return leaf.page
				}
			}
		}
	}
	return nil
}
