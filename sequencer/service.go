package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// drainTimeout bounds how long a stopping partition hands over what is derived.
const drainTimeout = 5 * time.Second

// Deps are what the role is given.
type Deps struct {
	NATS       *nats.Conn
	JetStream  jetstream.JetStream
	Deployment topology.Deployment
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service sequences all partitions of a deployment.
type Service struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	behind  atomic.Int64 // partitions that have not caught up
	ready   chan struct{}
	once    sync.Once // closes ready
}

// New checks the settings and what it is given, and reports everything that is
// wrong with them.
func New(cfg Config, deps Deps) (*Service, error) {
	errs := []error{cfg.validate(), deps.Deployment.Check()}
	if deps.NATS == nil || deps.JetStream == nil || deps.Logger == nil || deps.Registerer == nil {
		errs = append(errs, errors.New("a connection, a logger and a registerer are needed"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("sequencer: %w", err)
	}
	s := &Service{cfg: cfg, deps: deps, metrics: newMetrics(deps.Registerer), ready: make(chan struct{})}
	s.behind.Store(int64(deps.Deployment.Partitions))
	return s, nil
}

// Ready is closed when every partition has folded what was in its log at start.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Check is nil while every partition is caught up.
func (s *Service) Check() error {
	if n := s.behind.Load(); n > 0 {
		return fmt.Errorf("%d partitions are still reading their write-ahead log", n)
	}
	return nil
}

// Run sequences until ctx ends, then hands over what is derived. A partition that
// fails recovers by itself; Run returns an error only where trying again cannot
// help.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for p := range s.deps.Deployment.Partitions {
		group.Go(func() error { return s.supervise(ctx, p) })
	}
	return group.Wait()
}

// supervise runs a partition and starts it again, from recovery, after an error
// that may pass.
func (s *Service) supervise(ctx context.Context, number int) error {
	log := s.deps.Logger.With("role", "sequencer", "partition", number)
	m := s.metrics.partition(number)
	caughtUp := false
	for attempt := 0; ; attempt++ {
		started := time.Now()
		err := s.runPartition(ctx, number, log, m, func() {
			if caughtUp = true; s.behind.Add(-1) == 0 {
				s.once.Do(func() { close(s.ready) })
			}
		})
		if caughtUp {
			caughtUp = false
			s.behind.Add(1)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case permanent(err):
			return err
		}
		if time.Since(started) > backoffMax*2 {
			attempt = 0
		}
		m.restarts.Inc()
		log.Warn("the partition stopped and recovers", "error", err)
		if !pause(ctx, attempt) {
			return nil
		}
	}
}

func (s *Service) runPartition(ctx context.Context, number int, log *slog.Logger, m *partitionMetrics, caughtUp func()) (err error) {
	logs, err := openLogs(s.deps.NATS, s.deps.JetStream, number)
	if err != nil {
		return &Error{Op: "open the logs", Partition: number, Err: err}
	}
	defer func() { err = errors.Join(err, logs.close()) }()
	store, err := openCheckpoints(ctx, s.deps.JetStream, number)
	if err != nil {
		return &Error{Op: "open the checkpoints", Partition: number, Err: err}
	}
	p := &partition{
		cfg: s.cfg,
		params: fold.Params{
			Partition:       number,
			DedupWindow:     s.deps.Deployment.DedupWindow,
			DedupEntriesMax: s.deps.Deployment.DedupEntriesMax,
		},
		logs: logs, checkpoints: store, log: log, metrics: m, now: time.Now, caughtUp: caughtUp,
	}
	return p.run(ctx, drainTimeout)
}
