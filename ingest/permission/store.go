package permission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Config has the settings of permissions.
type Config struct {
	UndefinedChannels string        `name:"ingest-undefined-channels" help:"Sends to group-like channels that are not defined: allow accepts them, refuse answers 403." enum:"allow,refuse" default:"allow"`
	PersonAllowlists  bool          `name:"ingest-person-allowlists" help:"Accept sends to a person only from uids on the person's allowlist, unless the person allows strangers."`
	Permissions       string        `name:"ingest-permissions" help:"What decides whether a send is allowed: enforce checks all permissions; channel only whether the channel is banned or disbanded, for callers that check the rest themselves. The default is enforce, or channel with --api-compat wukongim." placeholder:"enforce|channel"`
	StaleMax          time.Duration `name:"ingest-permissions-stale-max" help:"How long the permissions last seen stay in use while NATS does not confirm them; after that, sends are answered 503." default:"30s"`
}

// The values of UndefinedChannels.
const (
	undefinedAllow  = "allow"
	undefinedRefuse = "refuse"
)

// The values of Permissions; "" means Enforce.
const (
	Enforce     = "enforce"
	ChannelOnly = "channel"
)

// Check reports every setting that is out of its range.
func (c Config) Check() error {
	var errs []error
	switch c.Permissions {
	case "", Enforce:
	case ChannelOnly:
		if c.UndefinedChannels == undefinedRefuse {
			errs = append(errs, errors.New("ingest-undefined-channels refuse: needs --ingest-permissions=enforce"))
		}
		if c.PersonAllowlists {
			errs = append(errs, errors.New("ingest-person-allowlists: needs --ingest-permissions=enforce"))
		}
	default:
		errs = append(errs, fmt.Errorf("ingest-permissions %q: must be enforce or channel", c.Permissions))
	}
	if c.UndefinedChannels != undefinedAllow && c.UndefinedChannels != undefinedRefuse {
		errs = append(errs, fmt.Errorf("ingest-undefined-channels %q: must be allow or refuse", c.UndefinedChannels))
	}
	if c.StaleMax < time.Second {
		errs = append(errs, fmt.Errorf("ingest-permissions-stale-max %s: must be at least 1s", c.StaleMax))
	}
	return errors.Join(errs...)
}

// Deps are the dependencies of a Store. All fields must be set.
type Deps struct {
	JetStream  jetstream.JetStream
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Store holds the policies of a deployment: a cache that follows the bucket, and changes of the bucket.
type Store struct {
	rules    Rules
	staleMax time.Duration
	js       jetstream.JetStream
	log      *slog.Logger
	metrics  *metrics

	cache    atomic.Pointer[cache]
	usable   atomic.Bool // the cache is fresh enough to decide on sends
	progress progress
	loose    loose
	locks    [lockStripes]chan struct{}

	ready       chan struct{}        // closed when the cache is complete for the first time
	once        sync.Once            // closes ready
	marking     chan struct{}        // held while the mark is raised
	marked      atomic.Pointer[mark] // the mark known to be stored
	probeFaults lifecycle.Repeated
	restart     lifecycle.Wake // requests a new watch
	watching    atomic.Int64   // the number of the watch; 0: there is none
	watches     int64          // the number of the last one; used only by follow
	others      atomic.Int64   // pages and foreign keys that were read into the cache
	notWhole    atomic.Pointer[error]
	began       time.Time
	confirmed   atomic.Int64 // when the cache was last known to be complete, in nanoseconds since began; 0: never
	created     atomic.Int64 // when the stream was created, in Unix nanoseconds; another time means another bucket
}

// New checks cfg and makes a Store. It sends nothing to NATS before Run.
func New(cfg Config, deps Deps) (*Store, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Store{
		rules:    Rules{RefuseUndefined: cfg.UndefinedChannels == undefinedRefuse, PersonAllowlists: cfg.PersonAllowlists, ChannelOnly: cfg.Permissions == ChannelOnly},
		staleMax: cfg.StaleMax, js: deps.JetStream, log: deps.Logger,
		ready: make(chan struct{}), restart: lifecycle.NewWake(), marking: make(chan struct{}, 1), began: time.Now(),
	}
	for i := range s.locks {
		s.locks[i] = make(chan struct{}, 1)
	}
	s.cache.Store(newCache())
	s.loose.pages = make(map[uint64]loosePage)
	var err error
	if s.metrics, err = newMetrics(deps.Registerer, s); err != nil {
		return nil, fmt.Errorf("permissions: metrics: %w", err)
	}
	return s, nil
}

// Run follows the bucket until ctx ends. Changes fail unless Run is running.
func (s *Store) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { s.follow(ctx) })
	work.Go(func() { s.probe(ctx) })
	work.Go(func() { s.sweep(ctx) })
	work.Wait()
	s.usable.Store(false)
	return nil
}

// Ready is closed when the cache is complete for the first time.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// ErrNotWhole means that the bucket holds less than was written to it. Which channels are affected is not known, so no
// send is allowed.
var ErrNotWhole = errors.New("the bucket " + topology.PermissionBucket + " has lost records; no send can be allowed (restore its stream with `nats stream restore`, or see `sendhouse repair permissions`)")

// ErrNotReady is wrapped by Check.
var ErrNotReady = errors.New("permissions are not available")

// Check returns nil while sends can be decided on.
func (s *Store) Check() error {
	cache := s.cache.Load()
	switch {
	case !cache.complete.Load() && s.notWhole.Load() != nil:
		return fmt.Errorf("%w: %w", ErrNotReady, *s.notWhole.Load())
	case !cache.complete.Load():
		return fmt.Errorf("%w: they are still being read (%d channels so far)", ErrNotReady, cache.channels.Load())
	case !s.usable.Load():
		return fmt.Errorf("%w: NATS has not confirmed them for %s", ErrNotReady, s.age().Round(time.Millisecond))
	}
	return nil
}

// age returns the time since the cache was last known to be complete.
func (s *Store) age() time.Duration {
	return time.Since(s.began) - time.Duration(s.confirmed.Load())
}

// Decide returns the verdict on a send. It makes no request and does not allocate.
func (s *Store) Decide(send Send) Verdict {
	verdict := Unavailable
	if cache := s.cache.Load(); s.usable.Load() && cache.complete.Load() {
		verdict = Decide(cache, s.rules, send)
		if verdict != Allowed && cache.Policy(SystemAccounts()).Has(damaged) {
			verdict = Unavailable // the system accounts cannot be read, and the sender may be one of them
		}
	}
	s.metrics.decisions[verdict].Inc()
	return verdict
}

// Policy returns the current policy of a channel; nil if there is none. It fails if the cache may be too old, or the
// policy is damaged.
func (s *Store) Policy(ch Channel) (*Policy, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	p := s.cache.Load().Policy(ch)
	if p.Has(damaged) {
		return nil, ErrDamaged
	}
	return p, nil
}

// bucketStream is the stream of the bucket.
const bucketStream = "KV_" + topology.PermissionBucket

// position is the state of the bucket's stream.
type position struct {
	last    uint64 // stream_seq of its newest message
	keys    uint64 // number of keys
	created time.Time
}

// position asks the stream's leader for its position.
func (s *Store) position(ctx context.Context) (position, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, bucketStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = fmt.Errorf("there is no bucket %s: a sequencer creates it at the first start of a deployment; if it was lost since, restore it from a backup (`nats stream restore`), or create an empty one with `sendhouse repair permissions`: %w", topology.PermissionBucket, err)
	}
	if err != nil {
		return position{}, err
	}
	info := stream.CachedInfo()
	return position{last: info.State.LastSeq, keys: info.State.NumSubjects, created: info.Created}, nil
}

// replaced reports whether the stream is not the one that the cache was read from, or was rolled back to before what had
// been applied when its position was requested. The cache may have advanced while the response was on its way.
func (s *Store) replaced(at position, applied uint64) bool {
	created := s.created.Load()
	return created != 0 && created != at.created.UnixNano() || at.last < applied
}

// sync waits until the cache has everything that the bucket held when sync was called.
func (s *Store) sync(ctx context.Context) error {
	at, err := s.position(ctx)
	if err != nil {
		return err
	}
	return s.reach(ctx, at.last)
}

// reach waits until the cache has everything up to a revision or, if the newest messages are gone and will never arrive,
// everything that the bucket holds.
func (s *Store) reach(ctx context.Context, revision uint64) error {
	var unanswered error
	for {
		delivery, cancel := context.WithTimeout(ctx, deliveryTime)
		err := s.progress.await(delivery, revision)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), unanswered)
		}
		var missing bool
		missing, unanswered = s.missing(ctx)
		if unanswered == nil && !missing {
			return nil
		}
	}
}

// missing reports whether the bucket holds any message after the last one applied. It asks the stream's leader, since the
// watch's server may itself lag.
func (s *Store) missing(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := broker.NextRecord(ctx, s.js, bucketStream, s.progress.now()+1, bucketSubjects+">")
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil, err
}
