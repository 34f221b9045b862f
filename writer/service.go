package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// pingTimeout limits one attempt to reach ClickHouse.
	pingTimeout = 7 * time.Second
	// tableTimeout limits the creation and check of the tables, once ClickHouse is reachable. A busy server needs a second
	// per statement.
	tableTimeout = time.Minute
	// refusedInARowMax is the number of rows in succession that ClickHouse may refuse before the table is suspected.
	refusedInARowMax = 1000
	bucketWait       = 5 * time.Second
)

// Service is the writer role: it writes its share of a deployment's partitions into ClickHouse.
type Service struct {
	cfg    Config
	deps   Deps
	client *clickhouse.Client
	store  store
	guard  *guard
	asks   func() bool // reports whether the table can be queried for its rows
	bucket func(context.Context) (bucket, error)
	// share writes this instance's share of the partitions with hold, until ctx ends.
	share func(ctx context.Context, hold holdFunc) error
	// wrapSource is nil except in tests.
	wrapSource       func(source) source
	refusedInARowMax int
	metrics          *metrics
	log              *slog.Logger
	timing           timing
	name             string // of the process, recorded in its partitions' positions
	budget           *budget
	inserts          chan struct{} // a semaphore: a token for each concurrent insert
	counting         chan struct{} // holds a token while the rows of a partition are counted
	fewerAt          time.Time     // last count that a smaller table triggered; owned by watchHealth
	ready            chan struct{}
	ran              atomic.Bool
	tableOpen        atomic.Bool           // the table has passed its check
	tableWrong       atomic.Pointer[error] // how a later change broke it

	mu      sync.Mutex
	state   error           // what Check reports before the instance has joined and after it has ended
	runners map[int]*runner // of the held partitions
}

// New validates the configuration and the dependencies and reports all errors together. It connects to nothing.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Check(), deps.validate()); err != nil {
		return nil, err
	}
	log := deps.Logger.With("component", subsystem)
	client, err := clickhouse.Open(cfg.Config, log)
	if err != nil {
		return nil, err
	}
	shared := newBudget(cfg.WriterBytesMax)
	s := &Service{
		cfg: cfg, deps: deps, client: client, store: client, asks: client.SingleServer, log: log,
		guard:   &guard{table: client, deployment: deps.Deployment, target: client.Database(), log: log},
		bucket:  func(ctx context.Context) (bucket, error) { return openBucket(ctx, deps.JetStream) },
		metrics: newMetrics(deps.Registerer, deps.Partitions, shared),
		timing:  defaultTiming(cfg.WriterStopTimeout),
		name:    lease.RandomInstance(),
		budget:  shared,
		inserts: make(chan struct{}, cfg.WriterInsertsMax),
		ready:   make(chan struct{}),

		counting: make(chan struct{}, 1),
		runners:  make(map[int]*runner),

		refusedInARowMax: refusedInARowMax,
		state:            errors.New("not started"),
	}
	s.share = s.shareByLease
	return s, nil
}

// Ready is closed when the writer has reached ClickHouse, has checked its table, has joined the other writers and has
// taken its first share of the partitions.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Check returns nil while all partitions that this instance holds are being written, and otherwise what prevents it. An
// instance without partitions, because there are more writers than partitions, is ready. Check is meant for
// lifecycle.Readiness.
func (s *Service) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil {
		return s.state
	}
	var errs []error
	if wrong := s.tableWrong.Load(); wrong != nil {
		errs = append(errs, fmt.Errorf("ClickHouse's table was changed: %w", *wrong))
	}
	for _, partition := range slices.Sorted(maps.Keys(s.runners)) {
		if problem := s.runners[partition].status.Load().problem; problem != nil {
			errs = append(errs, fmt.Errorf("partition %d: %w", partition, problem))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) setState(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = err
}

// Run takes its share of the partitions and writes them until ctx ends. It then finishes running inserts within the stop
// timeout, releases the partitions and returns nil. Unfinished inserts remain in the positions of their partitions, for
// the next owner.
//
// ClickHouse's state never ends it: if ClickHouse cannot be reached, or its table cannot be created or lacks the required
// form, the writer is not ready, reports why, and retries forever.
func (s *Service) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("writer: can be run only once")
	}
	defer func() {
		if err := s.client.Close(); err != nil {
			s.log.Warn("closing ClickHouse connections", "error", err)
		}
	}()
	watching, unwatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watchHealth(watching) })
	defer func() { // before the client is closed
		unwatch()
		watcher.Wait()
	}()
	s.setState(errors.New("connecting to ClickHouse"))
	if err := s.openTable(ctx); err != nil {
		s.setState(errStopped)
		return nil // stopped
	}
	s.setState(errors.New("has not joined the writers yet"))
	kv, err := s.bucket(ctx)
	if err == nil {
		err = s.share(ctx, func(ctx context.Context, h holding) { s.hold(ctx, h, kv) })
	}
	s.setState(errStopped)
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	return nil
}

// joined records that the instance has its first share.
func (s *Service) joined() {
	s.setState(nil)
	close(s.ready)
	s.log.Info("writing into ClickHouse", "database", s.client.Database(), "instance", s.name)
}

// hold writes one partition until ctx ends.
func (s *Service) hold(ctx context.Context, h holding, kv bucket) {
	r := s.newRunner(h, kv)
	s.mu.Lock()
	s.runners[h.partition] = r
	s.mu.Unlock()
	var restoring sync.WaitGroup
	if r.asks {
		o := &restorer{
			r: r, rows: s.client, kv: kv, turn: s.counting, alarm: r.alarm, explained: make(map[uint64]uint64),
			filler: newFiller(s.client, false, fillAttempts, r.log),
		}
		restoring.Go(func() { o.run(ctx) })
	}
	r.run(ctx)
	restoring.Wait()
	s.mu.Lock()
	delete(s.runners, h.partition)
	s.mu.Unlock()
	s.metrics.forget(h.partition)
}

// openTable connects to ClickHouse and creates, updates and checks its table. It retries every failure with growing
// pauses: ClickHouse's state is no reason to end the process, in which ingest may run. It returns only ctx's error.
func (s *Service) openTable(ctx context.Context) error {
	said := ""
	for attempt := 0; ; attempt++ {
		err := s.tryTable(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			if attempt > 0 {
				s.log.Info("ClickHouse's table is usable now", "database", s.client.Database())
			}
			s.metrics.tableUnusable.Set(0)
			s.tableOpen.Store(true)
			return nil
		}
		s.setState(fmt.Errorf("ClickHouse's table cannot be used: %w", err))
		s.metrics.tableUnusable.Set(1)
		if err.Error() != said { // log each error once
			said = err.Error()
			level := slog.LevelWarn
			if clickhouse.ClassOf(err) == clickhouse.Configuration {
				level = slog.LevelError
			}
			s.log.Log(ctx, level, "cannot use ClickHouse's table; writing nothing until this is fixed; retrying", "error", err)
		}
		if err := s.timing.backoff.Wait(ctx, attempt+1); err != nil {
			return err
		}
	}
}

// tryTable makes one attempt.
func (s *Service) tryTable(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, pingTimeout)
	err := s.client.Ping(asking)
	cancel()
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	ctx, cancel = context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	if s.cfg.ClickHouseMigrate {
		if err := s.client.Migrate(ctx); err != nil {
			return err //nolint:wrapcheck // a clickhouse.Error says it all
		}
	}
	return s.client.Check(ctx) //nolint:wrapcheck // a clickhouse.Error says it all
}

func openBucket(ctx context.Context, js jetstream.JetStream) (bucket, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketWait)
	defer cancel()
	kv, err := js.KeyValue(ctx, topology.WriterBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.WriterBucket, err)
	}
	return kv, nil
}

func (s *Service) newRunner(h holding, kv bucket) *runner {
	stream := topology.MessagesStream(h.partition)
	log := s.log.With("partition", h.partition, "epoch", h.epoch)
	r := &runner{
		partition: h.partition, stream: stream, js: s.deps.JetStream, store: s.store, guard: s.guard, asks: s.asks(), budget: s.budget, inserts: s.inserts, good: h.good,
		source: &logSource{js: s.deps.JetStream, stream: stream, traced: s.deps.Tracer != nil, warn: func(err error) {
			log.Debug("reading the message log", "error", err)
		}},
		letters: &deadLetters{js: s.deps.JetStream, stream: stream, timeout: s.timing.request},
		limits:  limits{rows: s.cfg.FlushRowsMax, bytes: s.cfg.FlushBytesMax, interval: s.cfg.FlushInterval, refusedInARow: s.refusedInARowMax},
		timing:  s.timing, log: log, metrics: s.metrics, tracer: s.deps.Tracer, own: s.metrics.take(h.partition, h.epoch), now: time.Now,
		batches: [2]*batch{{}, {}}, alarm: lifecycle.NewWake(),
	}
	r.filler = newFiller(s.store, false, 1, log) // the runner retries
	r.positions = &positions{
		kv: kv, key: positionKey(h.partition), writer: s.name, timeout: s.timing.request,
		wait: func(ctx context.Context, attempt int, err error) error {
			s.metrics.natsRetries.Inc()
			r.setStatus(stateRetrying, err)
			r.logOnce(slog.LevelError, "cannot save the position; retrying", err)
			return s.timing.backoff.Wait(ctx, attempt+1)
		},
	}
	if s.wrapSource != nil {
		r.source = s.wrapSource(r.source)
	}
	r.setStatus(stateStarting, errStarting)
	return r
}

// positionKey returns the key of a partition's position in the writer's bucket.
func positionKey(partition int) string { return "range." + strconv.Itoa(partition) }
