package sequencer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// leaseRole is the role's name in the lease bucket.
const leaseRole = "sequencer"

// drainTimeout bounds how long a stopping partition hands over what is derived.
const drainTimeout = 5 * time.Second

// attemptsForgotten: a partition that ran this long starts again without a pause
// when it fails.
const attemptsForgotten = 10 * time.Second

// Deps are what the role is given.
type Deps struct {
	NATS *nats.Conn
	// Answers is a connection of its own for what is sent back to ingest: on the other it would wait behind the messages
	// that are on their way to the message log.
	Answers    *nats.Conn
	JetStream  jetstream.JetStream
	Deployment topology.Deployment
	// Replicas of the lease bucket.
	Replicas int
	// Instance, if given, is a name that no other process can have, such as one tied
	// to a locked folder. What an earlier run under it still held is taken at once.
	Instance   string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Tracer follows sends; nil if nothing is traced.
	Tracer *tracing.Tracer
}

// Service sequences its share of a deployment's partitions.
type Service struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *runner.Metrics

	mu      sync.Mutex
	joined  bool
	behind  int                       // partitions held that have not caught up
	running map[int]*runner.Partition // held and recovered
	ready   chan struct{}
	isReady bool // ready is closed
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
	return &Service{
		cfg: cfg, deps: deps, log: deps.Logger.With("role", "sequencer"), metrics: runner.NewMetrics(deps.Registerer),
		running: make(map[int]*runner.Partition), ready: make(chan struct{}),
	}, nil
}

// Ready is closed when the instance has joined and every partition of its first
// share has folded what was in its log.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Check is nil while the instance takes part and its partitions are caught up.
func (s *Service) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.joined:
		return errors.New("has not joined the sequencers yet")
	case s.behind > 0:
		return fmt.Errorf("%d partitions are still reading their write-ahead log", s.behind)
	default:
		return nil
	}
}

// Run takes its share of the partitions and sequences them until ctx ends, then
// hands over what is derived and gives them back. A partition that fails recovers
// by itself; Run returns an error only where trying again cannot help.
func (s *Service) Run(ctx context.Context) error {
	kv, err := lease.OpenBucket(ctx, s.deps.JetStream, topology.LeaseBucket, s.deps.Replicas)
	if err != nil {
		return fmt.Errorf("sequencer: %w", err)
	}
	instance := s.deps.Instance
	if instance == "" {
		instance = lease.RandomInstance()
	}
	balancer, err := lease.New(kv, lease.Config{
		Role: leaseRole, Instance: instance, Partitions: s.deps.Deployment.Partitions, TTL: s.cfg.LeaseTTL,
		Logger: s.log, Status: s.status,
	}, s.hold)
	if err != nil {
		return fmt.Errorf("sequencer: %w", err)
	}
	go func() {
		select {
		case <-balancer.Joined():
			s.update(func() { s.joined = true })
		case <-ctx.Done():
		}
	}()
	return balancer.Run(ctx)
}

// update changes what Ready and Check go by.
func (s *Service) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if s.joined && s.behind == 0 && !s.isReady {
		s.isReady = true
		close(s.ready)
	}
}

// hold runs a partition while the lease stands, and starts it again, from
// recovery, after an error that may pass.
func (s *Service) hold(ctx context.Context, l *lease.Lease) error {
	number := l.Partition
	log := s.log.With("partition", number, "epoch", l.Epoch)
	m := s.metrics.Partition(number)
	m.Epoch.Set(float64(l.Epoch))
	defer s.metrics.Forget(number)
	behind := true
	s.update(func() { s.behind++ })
	setBehind := func(to bool) {
		s.update(func() {
			if behind && !to {
				s.behind--
			} else if !behind && to {
				s.behind++
			}
			behind = to
		})
	}
	defer setBehind(false)

	for attempt := 0; ; attempt++ {
		started := time.Now()
		err := s.runPartition(ctx, l, log, m, func() { setBehind(false) })
		switch {
		case ctx.Err() != nil:
			return nil // the lease has ended, and says why
		case runner.Permanent(err):
			return err
		}
		setBehind(true)
		if time.Since(started) > attemptsForgotten {
			attempt = 0
		}
		m.Restarts.Inc()
		log.Warn("the partition stopped and recovers", "error", err)
		if !runner.Pause(ctx, attempt) {
			return nil
		}
	}
}

func (s *Service) runPartition(ctx context.Context, l *lease.Lease, log *slog.Logger, m *runner.PartitionMetrics, caughtUp func()) (err error) {
	owns := func() bool { return l.Await(ctx) }
	logs, err := openLogs(s.deps.NATS, s.deps.Answers, s.deps.JetStream, l.Partition, s.deps.Tracer != nil)
	if err != nil {
		return &runner.Error{Op: "open the logs", Partition: l.Partition, Err: err}
	}
	logs.owns = owns
	defer func() { err = errors.Join(err, logs.close()) }()
	if err := broker.ResumeCut(ctx, s.deps.JetStream, topology.MessagesStream(l.Partition)); err != nil {
		return &runner.Error{Op: "open the logs", Partition: l.Partition, Err: err}
	}
	store, err := openCheckpoints(ctx, s.deps.JetStream, l.Partition)
	if err != nil {
		return &runner.Error{Op: "open the checkpoints", Partition: l.Partition, Err: err}
	}
	p := runner.New(s.cfg.Config, fold.Params{
		Partition:       l.Partition,
		DedupWindow:     s.deps.Deployment.DedupWindow,
		DedupEntriesMax: s.deps.Deployment.DedupEntriesMax,
	}, runner.Deps{Logs: logs, Checkpoints: store, Logger: log, Metrics: m, Now: time.Now, MayWrite: owns, CaughtUp: caughtUp, Tracer: s.deps.Tracer})
	s.update(func() { s.running[l.Partition] = p })
	defer s.update(func() { delete(s.running, l.Partition) })
	return p.Run(ctx, drainTimeout)
}

// status describes a held partition for the lease bucket.
func (s *Service) status(number int) json.RawMessage {
	s.mu.Lock()
	p := s.running[number]
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	encoded, err := json.Marshal(p.Progress())
	if err != nil {
		return nil // two numbers
	}
	return encoded
}
