package sequencer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer/checkpoint"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/natslog"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// drainTimeout bounds how long a stopping partition hands over what is derived.
const drainTimeout = 5 * time.Second

// attemptsForgotten: a partition that ran this long starts again without a pause
// when it fails.
const attemptsForgotten = 10 * time.Second

// A partition that fails is started again after pauses that double between these. A refused one waits longer: a repair needs
// no restart, and a lasting refusal costs next to nothing.
const (
	restartPauseMin = 50 * time.Millisecond
	restartPauseMax = 5 * time.Second
	refusedPauseMin = time.Second
	refusedPauseMax = 30 * time.Second
)

// Deps are what the role is given.
type Deps struct {
	NATS *nats.Conn
	// Answers is a connection of its own for what is sent back to ingest: on the other it would wait for the messages
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
	// Admit, if given, is asked before a partition is sequenced. Its error refuses the partition.
	Admit func(ctx context.Context, partition int) error
}

// Service sequences its share of a deployment's partitions.
type Service struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *runner.Metrics

	mu      sync.Mutex
	joined  bool
	held    map[int]*holding
	ready   chan struct{}
	isReady bool // ready is closed
}

// New checks the settings and what it is given, and reports everything that is
// wrong with them.
func New(cfg Config, deps Deps) (*Service, error) {
	errs := []error{cfg.Check(), deps.Deployment.Check()}
	if deps.NATS == nil || deps.JetStream == nil || deps.Logger == nil || deps.Registerer == nil {
		errs = append(errs, errors.New("a connection, a logger and a registerer are needed"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("sequencer: %w", err)
	}
	return &Service{
		cfg: cfg, deps: deps, log: deps.Logger.With("component", "sequencer"), metrics: runner.NewMetrics(deps.Registerer),
		held: make(map[int]*holding), ready: make(chan struct{}),
	}, nil
}

// Ready is closed when the instance has joined and every partition of its first
// share has folded what was in its log, or has failed to: one that cannot be served
// keeps no other waiting.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Check is nil while the instance takes part and all its partitions are served and
// caught up; otherwise it names each partition that is not, with the reason.
func (s *Service) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined {
		return errors.New("has not joined the sequencers yet")
	}
	behind := 0
	var errs []error
	for _, number := range slices.Sorted(maps.Keys(s.held)) {
		switch h := s.held[number]; {
		case h.problem != nil:
			errs = append(errs, h.problem)
		case h.storage != nil:
			errs = append(errs, h.storage)
		case h.behind:
			behind++
		}
	}
	if behind > 0 {
		errs = append(errs, fmt.Errorf("%d partitions are still reading their write-ahead log", behind))
	}
	return errors.Join(errs...)
}

// Run takes its share of the partitions and sequences them until ctx ends, then
// hands over what is derived and releases them. A partition that fails recovers by
// itself. One whose logs or checkpoints are damaged is refused: it is kept, shown, and
// tried again with growing pauses, while the others are served. No partition's error
// ends Run.
func (s *Service) Run(ctx context.Context) error {
	kv, err := lease.OpenBucket(ctx, s.deps.JetStream, topology.LeaseBucket, s.deps.Replicas, s.deps.Deployment.Metadata())
	if err != nil {
		return fmt.Errorf("sequencer: %w", err)
	}
	instance := s.deps.Instance
	if instance == "" {
		instance = lease.RandomInstance()
	}
	balancer, err := lease.New(kv, lease.Config{
		Role: lease.RoleSequencer, Instance: instance, Partitions: s.deps.Deployment.Partitions, TTL: s.cfg.LeaseTTL,
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
	if s.isReady || !s.joined {
		return
	}
	for _, h := range s.held {
		if h.behind && h.problem == nil {
			return
		}
	}
	s.isReady = true
	close(s.ready)
}

// hold runs a partition while the lease stands, and starts it again, from
// recovery, after an error.
func (s *Service) hold(ctx context.Context, l *lease.Lease) error {
	number := l.Partition
	log := s.log.With("partition", number, "epoch", l.Epoch)
	m := s.metrics.Partition(number)
	m.Epoch.Set(float64(l.Epoch))
	defer s.metrics.Forget(number)
	h := &holding{Service: s, lease: l, log: log, metrics: m, behind: true}
	s.update(func() { s.held[number] = h })
	defer s.update(func() { delete(s.held, number) })
	for {
		started := time.Now()
		err := s.runPartition(ctx, h)
		if ctx.Err() != nil {
			return nil // the lease has ended, and says why
		}
		if !h.pauseAfter(ctx, err, time.Since(started)) {
			return nil
		}
	}
}

// holding is one partition that this instance holds.
type holding struct {
	*Service
	lease   *lease.Lease
	log     *slog.Logger
	metrics *runner.PartitionMetrics

	// Guarded by Service.mu.
	partition *runner.Partition // nil while none runs
	behind    bool              // it has not caught up since it last failed
	problem   error             // with which it last failed; nil once it has caught up
	refused   bool              // the problem needs a repair
	storage   error             // its write-ahead log cannot be written to; nil if it can, as far as is known

	attempts, refusals int    // since it last worked
	logged             string // the last refusal
}

// caughtUp notes that the partition is served.
func (h *holding) caughtUp() {
	h.update(func() { h.behind, h.problem, h.refused = false, nil, false })
	h.lease.Announce()
	h.metrics.Refused.Set(0)
	if h.refusals > 0 {
		h.log.Info("partition is served again after a refusal")
	}
	h.refusals, h.logged = 0, ""
}

// pauseAfter notes the error with which the partition stopped after it ran for some
// time, and waits before the next attempt. It reports false if ctx ended first. An
// error that passes by itself does not end a refusal; only catching up does.
func (h *holding) pauseAfter(ctx context.Context, err error, ran time.Duration) bool {
	if !runner.Permanent(err) {
		h.update(func() {
			h.behind = true
			if !h.refused {
				h.problem = err
			}
		})
		if ran > attemptsForgotten {
			h.attempts = 0
		}
		h.lease.Announce()
		h.attempts++
		h.metrics.Restarts.Inc()
		h.log.Warn("the partition stopped and recovers", "error", err)
		return lifecycle.Backoff{Min: restartPauseMin, Max: restartPauseMax}.Wait(ctx, h.attempts) == nil
	}
	h.update(func() { h.behind, h.problem, h.refused = true, err, true })
	h.lease.Announce()
	h.metrics.Refused.Set(1)
	level := slog.LevelError
	if h.logged == err.Error() {
		level = slog.LevelDebug
	}
	h.logged = err.Error()
	h.refusals++
	pause := lifecycle.Backoff{Min: refusedPauseMin, Max: refusedPauseMax}.After(h.refusals)
	h.log.Log(ctx, level, "partition is refused: its sends are answered 503 until it is mended; the other partitions are served", "error", err, "next_attempt_in", pause)
	return lifecycle.Pause(ctx, pause) == nil
}

func (s *Service) runPartition(ctx context.Context, h *holding) (err error) {
	l := h.lease
	owns := func() bool { return l.Await(ctx) }
	// A log may be missing while a cut of it is not finished.
	if err := broker.ResumeCut(ctx, s.deps.JetStream, topology.MessagesStream(l.Partition)); err != nil {
		return &runner.Error{Op: "open the logs", Partition: l.Partition, Err: err}
	}
	if err := s.admit(ctx, l.Partition); err != nil {
		return &runner.Error{Op: "check its logs", Partition: l.Partition, Err: err}
	}
	logs, err := natslog.Open(s.deps.NATS, s.deps.JetStream, l.Partition, natslog.Options{Answers: s.deps.Answers, Traced: s.deps.Tracer != nil, Owns: owns})
	if err != nil {
		return &runner.Error{Op: "open the logs", Partition: l.Partition, Err: err}
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	store, err := checkpoint.Open(ctx, s.deps.JetStream, l.Partition)
	if err != nil {
		return &runner.Error{Op: "open the checkpoints", Partition: l.Partition, Err: err}
	}
	p := runner.New(s.cfg.Config, fold.Params{
		Partition:       l.Partition,
		DedupWindow:     s.deps.Deployment.DedupWindow,
		DedupEntriesMax: s.deps.Deployment.DedupEntriesMax,
	}, runner.Deps{Logs: logs, Checkpoints: store, Logger: h.log, Metrics: h.metrics, Now: time.Now, MayWrite: owns, CaughtUp: h.caughtUp, Tracer: s.deps.Tracer})
	s.update(func() { h.partition = p })
	defer s.update(func() { h.partition = nil })
	if s.deps.Replicas <= 1 {
		defer h.watchStorage(ctx)()
	}
	return p.Run(ctx, drainTimeout)
}

const (
	// storageInterval is how often the owner asks whether the write-ahead log can be written to.
	storageInterval = 2 * time.Second
	storageTimeout  = 2 * time.Second
)

// watchStorage keeps known whether the server can write to the partition's write-ahead log, until the returned function is
// called. A server that could not write to a stream once refuses all later writes to it until it is restarted, and nothing
// but a write would show it. Of a stream with several replicas another server becomes the leader.
func (h *holding) watchStorage(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lifecycle.Pause(ctx, storageInterval) == nil {
			asking, done := context.WithTimeout(ctx, storageTimeout)
			fault, err := broker.StorageFault(asking, h.deps.JetStream, topology.WALStream(h.lease.Partition))
			done()
			if err == nil { // else what was known last stands
				h.noteStorage(fault)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		h.update(func() { h.storage = nil })
	}
}

func (h *holding) noteStorage(fault error) {
	var before error
	h.update(func() { before, h.storage = h.storage, fault })
	switch {
	case fault != nil && before == nil:
		h.log.Error("NATS cannot write to the write-ahead log; sends are answered 503 until the server has room and is restarted; the embedded one does that by itself", "error", fault)
	case fault == nil && before != nil:
		h.log.Info("NATS can write to the write-ahead log again")
	default:
		return
	}
	h.lease.Announce()
}

// admit refuses a partition whose logs are lost or another deployment's, or which Admit refuses. A new log would give out again what was
// given out.
func (s *Service) admit(ctx context.Context, number int) error {
	err := broker.CheckPartition(ctx, s.deps.JetStream, s.deps.Deployment, number)
	if err != nil && !errors.Is(err, broker.ErrLost) && !errors.Is(err, broker.ErrForeign) {
		return err // of the question
	}
	if err == nil && s.deps.Admit != nil {
		err = s.deps.Admit(ctx, number)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", runner.ErrRefused, err)
	}
	return nil
}

// problemBytesMax bounds what a lease says of a problem.
const problemBytesMax = 1000

// ownerStatus is what the owner of a partition says of it in its lease.
type ownerStatus struct {
	runner.Progress
	lease.Condition
}

// status describes a held partition for the lease bucket.
func (s *Service) status(number int) json.RawMessage {
	s.mu.Lock()
	h := s.held[number]
	if h == nil {
		s.mu.Unlock()
		return nil
	}
	p := h.partition
	said := ownerStatus{Condition: lease.Condition{Refused: h.refused, Behind: h.behind}}
	if problem := cmp.Or(h.problem, h.storage); problem != nil {
		text := problem.Error()
		said.Problem = strings.ToValidUTF8(text[:min(len(text), problemBytesMax)], "")
	}
	s.mu.Unlock()
	if p != nil {
		said.Progress = p.Progress()
		said.RemembersMS = p.Remembers().Milliseconds()
	}
	encoded, err := json.Marshal(said)
	if err != nil {
		return nil // numbers and a string
	}
	return encoded
}

// Config is what an operator may set. The defaults stand in the tags.
type Config struct {
	runner.Config
	LeaseTTL time.Duration `name:"sequencer-lease-ttl" help:"Time after which the partitions of a sequencer that has died go to another, from 1s to 1h." default:"6s"`
}

// Check reports every setting out of its range.
func (c Config) Check() error {
	errs := []error{c.Config.Check()}
	if c.LeaseTTL < lease.TTLMin || c.LeaseTTL > lease.TTLMax {
		errs = append(errs, fmt.Errorf("sequencer-lease-ttl %s: must be between %s and %s", c.LeaseTTL, lease.TTLMin, lease.TTLMax))
	}
	return errors.Join(errs...)
}
