package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// entries are the keys of a role.
type entries map[string]jetstream.KeyValueEntry

// sighting is when this instance first saw a key as it is.
type sighting struct {
	revision uint64
	created  time.Time // by the broker's clock; only compared for being the same
	at       time.Duration
}

// observe notes that a key was seen.
func (b *Balancer) observe(entry jetstream.KeyValueEntry) {
	b.seenMu.Lock()
	defer b.seenMu.Unlock()
	b.sight(entry)
}

func (b *Balancer) sight(entry jetstream.KeyValueEntry) sighting {
	s, ok := b.seen[entry.Key()]
	// A broker that lost its newest writes assigns their revisions a second time; so the times are compared, too.
	if !ok || s.revision != entry.Revision() || !s.created.Equal(entry.Created()) {
		s = sighting{revision: entry.Revision(), created: entry.Created(), at: b.clock()}
		b.seen[entry.Key()] = s
	}
	return s
}

// judge sorts the keys of a role into those that live and the dead ones, which have not been
// renewed for a time to live since this instance first saw them as they are.
func (b *Balancer) judge(all entries) (live State, dead entries) {
	b.seenMu.Lock()
	defer b.seenMu.Unlock()
	live, dead = newState(), make(entries)
	for key, entry := range all {
		v, _ := parseValue(entry) // one that cannot be read lives for this instance's own time to live
		if b.clock()-b.sight(entry).at >= v.ttl(b.cfg.TTL) {
			dead[key] = entry
		} else {
			live.add(b.cfg.Role, entry)
		}
	}
	for key := range b.seen {
		if all[key] == nil {
			delete(b.seen, key)
		}
	}
	live.sort()
	return live, dead
}

// State is what a role's keys say.
type State struct {
	Members []Value       // by when they joined
	Owners  map[int]Value // by partition; Since is the epoch
}

func newState() State { return State{Owners: make(map[int]Value)} }

func (s *State) sort() {
	slices.SortFunc(s.Members, func(a, b Value) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Instance, b.Instance))
	})
}

// quota is the share of the member that joined at the given revision. Shares
// differ by one at most, and earlier members have the larger ones, so that a
// newcomer moves as little as may be.
func (s State) quota(joined uint64, partitions int) int {
	rank, found := slices.BinarySearchFunc(s.Members, joined, func(v Value, joined uint64) int { return cmp.Compare(v.Since, joined) })
	if !found {
		return 0
	}
	share := partitions / len(s.Members)
	if rank < partitions%len(s.Members) {
		share++
	}
	return share
}

// List reads a role's keys for showing them. It leaves out what has not been renewed for its
// time to live by the broker's clock. That is good enough to look at and for nothing else:
// an instance that takes part judges by its own clock.
func List(ctx context.Context, kv jetstream.KeyValue, role string) (State, error) {
	all, err := read(ctx, kv, role)
	if err != nil {
		return State{}, err
	}
	now, err := brokerTime(ctx, kv)
	if err != nil {
		return State{}, err
	}
	state := newState()
	for _, entry := range all {
		v, _ := parseValue(entry) // one that cannot be read is shown for good
		if ttl := v.ttl(0); ttl > 0 && now.Sub(entry.Created()) > ttl {
			continue
		}
		state.add(role, entry)
	}
	state.sort()
	return state, nil
}

// brokerTime is the time of the server that holds the bucket.
func brokerTime(ctx context.Context, kv jetstream.KeyValue) (time.Time, error) {
	status, err := kv.Status(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("look at the bucket of the leases: %w", err)
	}
	bucket, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return time.Time{}, fmt.Errorf("look at the bucket of the leases: its status is a %T", status)
	}
	return bucket.StreamInfo().TimeStamp, nil
}

// read reads a role's keys. It reads them twice: one that is renewed just then may be left out, since its old record has gone and its new
// one comes after what the server counts as all. What has ended in between is still named; an
// instance that takes part sees it in its next round.
func read(ctx context.Context, kv jetstream.KeyValue, role string) (entries, error) {
	found := make(entries)
	for range 2 {
		if err := found.read(ctx, kv, role); err != nil {
			return nil, fmt.Errorf("read the leases: %w", err)
		}
	}
	return found, nil
}

// read puts a role's keys into found, the newer of two of the same name.
func (found entries) read(ctx context.Context, kv jetstream.KeyValue, role string) error {
	watcher, err := kv.Watch(ctx, role+".>", jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Stop() }() // read to its end; the connection may be gone
	for {
		select {
		case entry, ok := <-watcher.Updates():
			if !ok {
				return errors.New("the connection is closed")
			}
			if entry == nil { // that was all
				return nil
			}
			if before := found[entry.Key()]; before == nil || before.Revision() < entry.Revision() {
				found[entry.Key()] = entry
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
