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

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const (
	// TTLMin is the shortest time to live of a lease.
	TTLMin = time.Second
	// TTLMax is the longest.
	TTLMax = time.Hour
	// roundsPerTTL is how often a lease is renewed within its time to live, so that
	// a lost renewal or two cost nothing.
	roundsPerTTL = 4
	// roundPart of the time to live is what a round may take. It is much longer than a
	// round takes, and longer than the time between two: a broker that is starved of CPU
	// or disk answers late, and who gave up sooner would never hear that it did.
	roundPart = 2
	// marginPart: a holder stops this part of the time to live before an observer may
	// take its key.
	marginPart = 8
)

// Config says who shares what.
type Config struct {
	Role string // part of the keys
	// Instance is unique among the role's instances. A name may be used again once the process that had it has
	// ended; what that one left is then taken at once.
	Instance   string
	Partitions int
	TTL        time.Duration // between TTLMin and TTLMax
	Logger     *slog.Logger
	// Clock returns the time since any fixed moment, more than 0; it never steps. Nil means the system's.
	Clock func() time.Duration
	// Status, if given, describes a held partition for State; it must not block.
	Status func(partition int) json.RawMessage
}

// Hold is what an instance does with a partition while it holds it. The context
// ends when the lease does, with the reason as its cause. The lease is given back
// when Hold has returned.
type Hold func(ctx context.Context, l *Lease) error

// Balancer is one instance.
type Balancer struct {
	cfg   Config
	kv    jetstream.KeyValue
	hold  Hold
	log   *slog.Logger
	clock func() time.Duration

	memberKey string
	joined    uint64 // revision under which the instance joined
	member    uint64 // revision of its membership now, 0 if it is no member
	round1    chan struct{}
	changes   lifecycle.Wake // of Run: something is to be done before the next tick

	faults lifecycle.Repeated

	seenMu sync.Mutex
	seen   map[string]sighting // by key

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
	if cfg.TTL < TTLMin || cfg.TTL > TTLMax {
		errs = append(errs, fmt.Errorf("time to live %s: must be between %s and %s", cfg.TTL, TTLMin, TTLMax))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	clock := cfg.Clock
	if clock == nil {
		clock = systemClock()
	}
	return &Balancer{
		cfg: cfg, kv: kv, hold: hold, log: cfg.Logger.With("instance", cfg.Instance), clock: clock,
		round1: make(chan struct{}), changes: lifecycle.NewWake(), seen: make(map[string]sighting),
		held: make(map[int]*Lease), failed: make(chan error, 1),
	}, nil
}

// Joined is closed when the instance has taken its first share.
func (b *Balancer) Joined() <-chan struct{} { return b.round1 }

// Run takes part until ctx ends, then gives everything back and withdraws. It
// returns early with the error of a Hold that failed while its lease was good.
func (b *Balancer) Run(ctx context.Context) error {
	defer b.watch(ctx)()
	ticker := time.NewTicker(b.cfg.TTL / roundsPerTTL)
	defer ticker.Stop()
	joined := sync.OnceFunc(func() { close(b.round1) })
	var err error
	for err == nil && ctx.Err() == nil {
		if failed := b.round(ctx); failed == nil {
			joined()
			if b.faults.Over() {
				b.log.Info("takes part in sharing the partitions again")
			}
		} else if skipped, due := b.faults.Due("round"); due && ctx.Err() == nil {
			b.log.Warn("could not take part in sharing the partitions; retrying", "error", broker.Explain(failed), "skipped", skipped)
		}
		select {
		case <-ticker.C:
		case <-b.changes:
		case err = <-b.failed:
		case <-ctx.Done():
		}
	}
	b.leave(context.WithoutCancel(ctx))
	return err
}

// watch asks for a round when a key was given back or a member has joined, and notes when each revision was first
// seen. It only speeds things up: without it the ticker finds everything. The returned function ends it.
func (b *Balancer) watch(ctx context.Context) (stop func()) {
	watcher, err := b.kv.Watch(ctx, b.cfg.Role+".>", jetstream.UpdatesOnly())
	if err != nil {
		b.log.Warn("cannot watch the leases; changes will be seen later", "error", err)
		return func() {}
	}
	go func() {
		for entry := range watcher.Updates() { // closed by Stop
			switch {
			case entry == nil:
			case entry.Operation() != jetstream.KeyValuePut:
				b.changes.Signal()
			default: // every renewal is a put
				b.observe(entry)
				if b.isJoin(entry) {
					b.changes.Signal()
				}
			}
		}
	}()
	return func() { _ = watcher.Stop() } // the connection may be gone, and the watch with it
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
	if err := b.renewMember(ctx); err != nil {
		return err
	}
	all, state, dead, err := b.look(ctx)
	if err != nil {
		return err
	}
	if b.member == 0 {
		if err := b.join(ctx, all, dead); err != nil {
			return err
		}
		if all, state, dead, err = b.look(ctx); err != nil {
			return err
		}
	}
	if err := b.removeDead(ctx, dead); err != nil {
		return err
	}
	quota := state.quota(b.joined, b.cfg.Partitions)
	b.release(quota)
	return b.acquire(ctx, all, dead, quota)
}

// look reads the role's keys and judges which of them live.
func (b *Balancer) look(ctx context.Context) (all entries, live State, dead entries, err error) {
	if all, err = read(ctx, b.kv, b.cfg.Role); err == nil {
		live, dead = b.judge(all)
	}
	return all, live, dead, err
}

// acquire takes partitions up to the quota: those whose key is not there, is dead, or names this instance
// though it does not work under it.
func (b *Balancer) acquire(ctx context.Context, all, dead entries, quota int) error {
	b.mu.Lock()
	held := maps.Clone(b.held)
	b.mu.Unlock()
	missing := quota - len(held)
	for partition := range b.cfg.Partitions {
		key := b.partitionKey(partition)
		entry := all[key]
		own := false
		if entry != nil {
			v, err := parseValue(entry)
			own = err == nil && v.Instance == b.cfg.Instance
		}
		var err error
		switch {
		case held[partition] != nil: // its lease may have expired, and its Hold not returned yet
			continue
		case entry != nil && !own && dead[key] == nil: // another's
			continue
		case missing > 0:
			before := b.clock()
			var revision uint64
			if revision, err = b.take(ctx, key, entry); err == nil {
				b.begin(ctx, partition, revision, before)
				missing--
			}
		case own: // others are to have it
			err = b.kv.Delete(ctx, key, jetstream.LastRevision(entry.Revision()))
		}
		if err != nil && !isConflict(err) { // in a conflict another was first
			return fmt.Errorf("take the lease of partition %d: %w", partition, err)
		}
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
	if err := b.kv.Delete(ctx, b.memberKey, jetstream.LastRevision(b.member)); err != nil && !isConflict(err) {
		b.log.Debug("could not withdraw the membership; the others stop counting it after the time to live", "error", err)
	}
}
