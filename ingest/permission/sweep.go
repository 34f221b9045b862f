package permission

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	sweepInterval = 5 * time.Minute
	// sweepAge is the minimum age of a page to be swept, which avoids disturbing a change in progress. Safety does not depend
	// on it.
	sweepAge      = 2 * time.Minute
	sweepPagesMax = 1_000 // at a time
)

// loose holds the pages that no record points to: not yet, or because the change that stored them died.
type loose struct {
	mu    sync.Mutex
	pages map[uint64]loosePage
}

type loosePage struct {
	key     parsedKey
	page    *page
	created time.Time
}

func (l *loose) add(key parsedKey, p *page, created time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pages[key.id] = loosePage{key: key, page: p, created: created}
}

// take removes the page with an id, for the record that points to it.
func (l *loose) take(id uint64) *page {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pages[id].page
	delete(l.pages, id)
	return p
}

func (l *loose) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.pages)
}

// forget drops a page that was removed from the bucket, and reports whether it was still loose.
func (l *loose) forget(id uint64) (was bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, was = l.pages[id]
	delete(l.pages, id)
	return was
}

// old returns the keys of pages older than age, by channel.
func (l *loose) old(age time.Duration) map[Channel][]parsedKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys, n := make(map[Channel][]parsedKey), 0
	for _, p := range l.pages {
		if time.Since(p.created) >= age && n < sweepPagesMax {
			keys[p.key.channel] = append(keys[p.key.channel], p.key)
			n++
		}
	}
	return keys
}

func (l *loose) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pages)
}

// sweep periodically removes the pages that dead changes have left.
func (s *Store) sweep(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		if err := s.sweepOnce(ctx, sweepAge); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot sweep unused pages of permissions; retrying later", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweepOnce removes the loose pages older than age. It first rewrites each channel's record unchanged: a process that had
// stored the page for a change of the previous record, and is still alive, can then no longer make that change.
func (s *Store) sweepOnce(ctx context.Context, age time.Duration) error {
	kv, err := s.js.KeyValue(ctx, topology.PermissionBucket)
	if err != nil {
		return err
	}
	var errs []error
	for channel, keys := range s.loose.old(age) {
		var there []parsedKey
		for _, key := range keys {
			_, err := kv.Get(ctx, key.channel.pageKey(key.list, key.id))
			switch {
			case errors.Is(err, jetstream.ErrKeyNotFound): // the process that wrote it has removed it
				s.loose.forget(key.id)
			case err != nil:
				return err
			default:
				there = append(there, key)
			}
		}
		if len(there) == 0 {
			continue
		}
		if err := s.change(ctx, channel, Edit{}, true); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", channel.key(), err))
			continue
		}
		var pages []storedPage
		for _, key := range there {
			if s.loose.forget(key.id) { // no record has taken it in the meantime
				pages = append(pages, storedPage{list: key.list, key: channel.pageKey(key.list, key.id)})
			}
		}
		s.purge(ctx, pages)
		s.log.Info("removed unused pages of permissions", "pages", len(pages))
	}
	return errors.Join(errs...)
}
