package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// startTimeout is how long the first way to ClickHouse may take. It is retried within it, for a server
	// that is started at the same time.
	startTimeout = 7 * time.Second
	startRetry   = 250 * time.Millisecond
	// refusedInARowMax is how many rows in a row ClickHouse may refuse before the table is suspected.
	refusedInARowMax = 1000
	bucketWait       = 5 * time.Second
)

// Service is the writer role: it writes all partitions of a deployment into ClickHouse.
type Service struct {
	cfg    Config
	deps   Deps
	client *clickhouse.Client
	store  store
	bucket func(context.Context) (bucket, error)
	// wrapSource is nil but in tests.
	wrapSource       func(source) source
	refusedInARowMax int
	metrics          *metrics
	log              *slog.Logger
	timing           timing
	ready            chan struct{}
	ran              atomic.Bool

	mu      sync.Mutex
	state   error // what Check reports while there are no runners
	runners []*runner
}

// New checks the configuration and the dependencies and reports everything that is wrong with them. It
// connects to nothing.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Check(), deps.validate()); err != nil {
		return nil, err
	}
	log := deps.Logger.With("role", subsystem)
	client, err := clickhouse.Open(cfg.Config, log)
	if err != nil {
		return nil, err
	}
	return &Service{
		cfg: cfg, deps: deps, client: client, store: client, log: log,
		bucket:  func(ctx context.Context) (bucket, error) { return openBucket(ctx, deps.JetStream) },
		metrics: newMetrics(deps.Registerer, deps.Partitions),
		timing:  defaultTiming(cfg.WriterStopTimeout),
		ready:   make(chan struct{}),

		refusedInARowMax: refusedInARowMax,
		state:            errors.New("not started"),
	}, nil
}

// Ready is closed when ClickHouse has been reached, its table is as it must be, and the partitions are
// being written.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Check is nil while all partitions are being written, and otherwise says what is in the way. It is meant
// for lifecycle.Readiness.
func (s *Service) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil {
		return s.state
	}
	var errs []error
	for _, r := range s.runners {
		if problem := r.status.Load().problem; problem != nil {
			errs = append(errs, fmt.Errorf("partition %d: %w", r.partition, problem))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) setState(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = err
}

// Run writes until ctx ends; then it finishes the inserts that are under way, within the stop timeout, and
// returns nil. What it has not finished stands in the record of its partition, for the next start.
//
// It fails when ClickHouse cannot be reached at the start, or when its table is not as it must be. Once it
// has been reached, the writer goes on trying for ever.
func (s *Service) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("writer: can be run only once")
	}
	defer func() {
		if err := s.client.Close(); err != nil {
			s.log.Warn("closing ClickHouse connections", "error", err)
		}
	}()
	s.setState(errors.New("connecting to ClickHouse"))
	if err := s.openTable(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		s.setState(err)
		return fmt.Errorf("writer: %w", err)
	}
	runners, err := s.newRunners(ctx)
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	s.mu.Lock()
	s.runners, s.state = runners, nil
	s.mu.Unlock()

	var running sync.WaitGroup
	for _, r := range runners {
		running.Go(func() { r.run(ctx) })
	}
	close(s.ready)
	s.log.Info("writing into ClickHouse", "database", s.client.Database(), "partitions", len(runners))
	running.Wait()
	s.setState(errStopped)
	return nil
}

// openTable reaches ClickHouse and brings its table to what is needed, within the start timeout.
func (s *Service) openTable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.client.Ping(ctx)
		if err == nil {
			break
		}
		if clickhouse.ClassOf(err) == clickhouse.Configuration || s.timing.pause(ctx, startRetry) != nil {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
	}
	if s.cfg.ClickHouseMigrate {
		if err := s.client.Migrate(ctx); err != nil {
			return err //nolint:wrapcheck // a clickhouse.Error says it all
		}
	}
	return s.client.Check(ctx) //nolint:wrapcheck // a clickhouse.Error says it all
}

func (s *Service) newRunners(ctx context.Context) ([]*runner, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketWait)
	defer cancel()
	kv, err := s.bucket(ctx)
	if err != nil {
		return nil, err
	}
	shared := newBudget(s.cfg.WriterBytesMax)
	inserts := make(chan struct{}, s.cfg.WriterInsertsMax)
	id := nuid.Next()
	runners := make([]*runner, s.deps.Partitions)
	for p := range runners {
		runners[p] = s.newRunner(p, kv, id, shared, inserts)
	}
	return runners, nil
}

func openBucket(ctx context.Context, js jetstream.JetStream) (bucket, error) {
	kv, err := js.KeyValue(ctx, topology.WriterBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.WriterBucket, err)
	}
	return kv, nil
}

func (s *Service) newRunner(partition int, kv bucket, id string, shared *budget, inserts chan struct{}) *runner {
	stream := topology.MessagesStream(partition)
	log := s.log.With("partition", partition)
	r := &runner{
		partition: partition, stream: stream, js: s.deps.JetStream, store: s.store, budget: shared, inserts: inserts,
		source: &orderedSource{js: s.deps.JetStream, stream: stream, warn: func(err error) {
			log.Debug("reading the message log", "error", err)
		}},
		letters: &deadLetters{js: s.deps.JetStream, stream: stream, timeout: s.timing.request},
		limits:  limits{rows: s.cfg.FlushRowsMax, bytes: s.cfg.FlushBytesMax, interval: s.cfg.FlushInterval, refusedInARow: s.refusedInARowMax},
		timing:  s.timing, log: log, metrics: s.metrics, own: s.metrics.partitions[partition], now: time.Now,
		batches: [2]*batch{{}, {}},
	}
	r.positions = &positions{
		kv: kv, key: positionKey(partition), writer: id, timeout: s.timing.request,
		wait: func(ctx context.Context, attempt int, err error) error {
			s.metrics.natsRetries.Inc()
			r.setStatus(stateRetrying, err)
			r.logOnce(slog.LevelError, "the position cannot be recorded, trying again", err)
			return s.timing.backoff(ctx, attempt, err)
		},
	}
	if s.wrapSource != nil {
		r.source = s.wrapSource(r.source)
	}
	r.setStatus(stateStarting, errStarting)
	return r
}

// positionKey is the key of a partition's record in the bucket of the writer.
func positionKey(partition int) string { return "range." + strconv.Itoa(partition) }
