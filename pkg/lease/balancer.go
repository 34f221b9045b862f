package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// TTLMin is the shortest time to live of a lease.
	TTLMin = time.Second
	// roundsPerTTL is how often a lease is renewed within its time to live, so that
	// a lost renewal or two cost nothing.
	roundsPerTTL = 4
	// roundPart of the time to live is what a round may take. It is much longer than a
	// round takes, and longer than the time between two: a broker that is starved of CPU
	// or disk answers late, and who gave up sooner would never hear that it did.
	roundPart = 2
	// marginPart: a holder stops this part of the time to live before its key can
	// have expired.
	marginPart = 8
)

// Config says who shares what.
type Config struct {
	Role       string // part of the keys
	Instance   string // unique among the role's instances; one token of a subject
	Partitions int
	TTL        time.Duration // of the bucket's values, see BucketConfig
	// Sole says that no other process can have this instance's name, so that keys
	// under it are left over from an earlier run and can be taken at once.
	Sole   bool
	Logger *slog.Logger
	// Status, if given, describes a held partition for State; it must not block.
	Status func(partition int) json.RawMessage
}

// Hold is what an instance does with a partition while it holds it. The context
// ends when the lease does, with the reason as its cause. The lease is given back
// when Hold has returned.
type Hold func(ctx context.Context, l *Lease) error

// Balancer is one instance.
type Balancer struct {
	cfg  Config
	kv   jetstream.KeyValue
	hold Hold
	log  *slog.Logger

	joined uint64 // revision under which the instance joined, 0 before
	member uint64 // revision of its membership now
	round1 chan struct{}

	mu     sync.Mutex
	held   map[int]*Lease
	failed chan error // the first error of a Hold
	wg     sync.WaitGroup
}

// New makes a balancer over a bucket made with BucketConfig.
func New(kv jetstream.KeyValue, cfg Config, hold Hold) (*Balancer, error) {
	var errs []error
	if cfg.Role == "" || cfg.Instance == "" || cfg.Partitions < 1 || cfg.Logger == nil || hold == nil {
		errs = append(errs, errors.New("a role, an instance, partitions, a logger and a function are needed"))
	}
	if cfg.TTL < TTLMin {
		errs = append(errs, fmt.Errorf("time to live %s: must be at least %s", cfg.TTL, TTLMin))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	return &Balancer{
		cfg: cfg, kv: kv, hold: hold, log: cfg.Logger.With("instance", cfg.Instance),
		round1: make(chan struct{}), held: make(map[int]*Lease), failed: make(chan error, 1),
	}, nil
}

// Joined is closed when the instance has taken its first share.
func (b *Balancer) Joined() <-chan struct{} { return b.round1 }

// Run takes part until ctx ends, then gives everything back and withdraws. It
// returns early with the error of a Hold that failed while its lease was good.
func (b *Balancer) Run(ctx context.Context) error {
	changes, stopWatching := b.watch(ctx)
	defer stopWatching()
	ticker := time.NewTicker(b.cfg.TTL / roundsPerTTL)
	defer ticker.Stop()
	joined := sync.OnceFunc(func() { close(b.round1) })
	var err error
	for err == nil && ctx.Err() == nil {
		if failed := b.round(ctx); failed == nil {
			joined()
		} else if ctx.Err() == nil {
			b.log.Warn("could not take part in sharing the partitions; trying on", "error", failed)
		}
		select {
		case <-ticker.C:
		case <-changes:
		case err = <-b.failed:
		case <-ctx.Done():
		}
	}
	b.leave(context.WithoutCancel(ctx))
	return err
}

// watch signals that a key was given back or a member has joined, so that it is
// seen at once. It only speeds things up: without it the ticker finds everything.
func (b *Balancer) watch(ctx context.Context) (changes <-chan struct{}, stop func()) {
	watcher, err := b.kv.Watch(ctx, b.cfg.Role+".>", jetstream.UpdatesOnly())
	if err != nil {
		b.log.Warn("cannot watch the leases; changes will be seen later", "error", err)
		return nil, func() {}
	}
	signals := make(chan struct{}, 1)
	go func() {
		for entry := range watcher.Updates() { // closed by Stop
			if entry == nil || (entry.Operation() == jetstream.KeyValuePut && !b.isJoin(entry)) {
				continue // every renewal is a put
			}
			select {
			case signals <- struct{}{}:
			default: // one is pending, which is enough
			}
		}
	}()
	return signals, func() { _ = watcher.Stop() } // the connection may be gone, and the watch with it
}

// holdFor is how long after the moment before a renewal was sent a holder may go
// on.
func (b *Balancer) holdFor() time.Duration { return b.cfg.TTL - b.cfg.TTL/marginPart }

// round renews what is held and brings it to this instance's share.
func (b *Balancer) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.TTL/roundPart)
	defer cancel()
	b.mu.Lock()
	held := slices.Collect(maps.Values(b.held))
	b.mu.Unlock()
	for _, l := range held {
		if err := b.renew(ctx, l); err != nil {
			return err
		}
	}
	if b.joined == 0 && b.cfg.Sole {
		if err := b.reclaim(ctx); err != nil {
			return err
		}
	}
	if err := b.renewMember(ctx); err != nil {
		return err
	}
	state, err := List(ctx, b.kv, b.cfg.Role)
	if err != nil {
		return err
	}
	quota := state.quota(b.joined, b.cfg.Partitions)
	b.release(quota)
	return b.acquire(ctx, state, quota)
}

// acquire takes free partitions up to the quota.
func (b *Balancer) acquire(ctx context.Context, state State, quota int) error {
	b.mu.Lock()
	held := maps.Clone(b.held)
	b.mu.Unlock()
	missing := quota - len(held)
	for partition := 0; partition < b.cfg.Partitions && missing > 0; partition++ {
		if _, taken := state.Owners[partition]; taken {
			continue
		}
		if held[partition] != nil {
			continue // its lease has expired, and its Hold has not returned yet
		}
		before := time.Now()
		revision, err := b.kv.Create(ctx, b.partitionKey(partition), b.partitionValue(&Lease{Partition: partition}))
		if errors.Is(err, jetstream.ErrKeyExists) {
			continue // another was first
		}
		if err != nil {
			return fmt.Errorf("take the lease of partition %d: %w", partition, err)
		}
		b.begin(ctx, partition, revision, before)
		missing--
	}
	return nil
}

// release gives up what is beyond the quota, the latest taken first.
func (b *Balancer) release(quota int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := slices.SortedFunc(maps.Values(b.held), func(a, b *Lease) int { return int(int64(a.Epoch) - int64(b.Epoch)) })
	for _, l := range held[min(quota, len(held)):] {
		l.end(ErrReleased)
	}
}

// leave gives everything back and withdraws from the members.
func (b *Balancer) leave(ctx context.Context) {
	b.release(0)
	b.wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, b.cfg.TTL)
	defer cancel()
	if b.member == 0 {
		return
	}
	if err := b.kv.Delete(ctx, b.memberKey(), jetstream.LastRevision(b.member)); err != nil && !isConflict(err) {
		b.log.Debug("the membership was not withdrawn and will expire", "error", err)
	}
}
