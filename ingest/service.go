package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/ingest/access"
	"github.com/sendhouse/sendhouse/ingest/compat"
	"github.com/sendhouse/sendhouse/ingest/fastpath"
	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/ingest/listener"
	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/openapi"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/ingest/request"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// Deps are the dependencies of the role. All fields but Tracer and Routes must be set.
type Deps struct {
	// NATS is a connection that reconnects indefinitely and buffers nothing while disconnected, as made by broker.Connect. The
	// role does not close it.
	NATS *nats.Conn
	// JetStream is the JetStream context of that connection.
	JetStream jetstream.JetStream
	// Partitions is the deployment's number of partitions.
	Partitions topology.Partitions
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Tracer traces sends; nil disables tracing.
	Tracer *tracing.Tracer
	// Routes are routes of other packages on the same listener; there may be none.
	Routes []api.Route
	// Hosts are the host names by which requests may reach the API if it needs no token.
	Hosts guard.Hosts
}

// Service is the ingest role. It implements lifecycle.Service and lifecycle.Readier.
type Service struct {
	cfg         Config
	topology    topology.Partitions
	log         *slog.Logger
	metrics     *metrics
	rules       *request.PayloadRules
	access      *access.Gate
	listener    *listener.Listener
	permissions *permission.Store
	requests    *request.Pool
	replies     *memory.Buffers
	flights     sync.Pool
	contentType []string
	sender      string // of sends that name none; "" refuses them
	hosted      []api.Route
	router      chi.Routes
	handler     http.Handler
	commits     *groupcommit.Committer
	tracer      *tracing.Tracer // nil disables tracing

	failures [outcome.Count]lifecycle.Repeated // one for each outcome; used by those answered 5xx

	state       atomic.Int32
	inFlight    atomic.Int64 // requests
	uploadGrace time.Duration
	admitted    atomic.Uint64 // requests, in total
	idle        chan struct{} // signalled when the last request ends during a drain
	bound       chan struct{} // closed once addr is set
	addr        net.Addr
}

// The states of a Service, in their order.
const (
	stateNew int32 = iota
	stateServing
	stateDraining
	stateStopped
)

const (
	// decodeSampled: the decode duration is measured for one request in so many.
	decodeSampled = 16
	// permissionsWait is how long a start waits for the permissions before it accepts connections. Reading continues
	// afterwards; until it is complete, sends are answered 503.
	permissionsWait = 5 * time.Second
	// uploadGrace is how long, once the process stops, a client may continue sending a request that it has started.
	uploadGrace = time.Second
	uploadsLook = 20 * time.Millisecond // how often a drain checks whether only such requests are left
	// cutTimeout is how long connections that were cut off may take to close.
	cutTimeout = 5 * time.Second
)

// Reasons for which a service is not ready or does not run.
var (
	// ErrNotServing means that the service has not been started, or is stopping.
	ErrNotServing = errors.New("ingest: not serving")
	// ErrRunTwice is returned by the second Run of a service.
	ErrRunTwice = errors.New("ingest: a service can be run only once")
)

// New checks cfg and deps and reports everything that is wrong with them. It opens no connection; it reads the files that
// cfg.Access names.
func New(cfg Config, deps Deps) (*Service, error) {
	errs := []error{cfg.check()}
	cfg = cfg.forCallers()
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is missing", what))
		}
	}
	require(deps.NATS != nil, "the NATS connection")
	require(deps.JetStream != nil, "JetStream")
	require(deps.Logger != nil, "the logger")
	require(deps.Registerer != nil, "the metrics registerer")
	if _, err := topology.NewPartitions(int(deps.Partitions)); err != nil {
		errs = append(errs, err)
	}
	log := slog.New(slog.DiscardHandler) // a missing logger is reported by require
	if deps.Logger != nil {
		log = deps.Logger.With("component", "ingest")
	}
	access, err := access.New(cfg.Access, deps.Hosts, log)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	s := &Service{
		cfg: cfg, topology: deps.Partitions, log: log, access: access,
		requests:    request.NewPool(int(cfg.BodyBytesMax), int64(cfg.BodiesBytesMax)),
		replies:     memory.NewBuffers(512),
		contentType: []string{"application/json"},
		hosted:      deps.Routes,
		tracer:      deps.Tracer,
		idle:        make(chan struct{}, 1),
		bound:       make(chan struct{}),
		uploadGrace: uploadGrace,
	}
	s.rules, err = request.NewPayloadRules(cfg.PayloadRules, deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("ingest: metrics: %w", err)
	}
	s.commits, err = groupcommit.New(
		groupcommit.Config{AckTimeout: cfg.AckTimeout, SendsMax: cfg.QueueSendsMax, BytesMax: int(cfg.QueueBytesMax), WaitMax: cfg.WaitMax},
		groupcommit.Deps{NATS: deps.NATS, JetStream: deps.JetStream, Partitions: deps.Partitions, Logger: log, Registerer: deps.Registerer, Tracer: deps.Tracer})
	if err != nil {
		return nil, fmt.Errorf("ingest: metrics: %w", err)
	}
	s.listener, err = listener.New(listener.Config{ConnectionsMax: cfg.ConnectionsMax, HandshakeTimeout: cfg.HeaderReadTimeout, TLS: access.TLS()},
		func(o outcome.Outcome) { s.metrics.requests[o].Inc() }, log, deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("ingest: metrics: %w", err)
	}
	s.metrics, err = newMetrics(deps.Registerer, newLoadCollector(s))
	if err != nil {
		return nil, fmt.Errorf("ingest: metrics: %w", err)
	}
	s.permissions, err = permission.New(cfg.Permission, permission.Deps{JetStream: deps.JetStream, Logger: log, Registerer: deps.Registerer})
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	page, err := openapi.Page()
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	s.handler = s.routes(page)
	if cfg.APICompat == compat.WuKongIM {
		s.handler, s.sender = compat.Handler(s.handler), permission.SystemUID
	}
	return s, nil
}

// Handler returns the API. It accepts sends while Run runs, and refuses them before and after.
func (s *Service) Handler() http.Handler { return s.handler }

// Ready is closed once the service accepts connections.
func (s *Service) Ready() <-chan struct{} { return s.bound }

// Addr returns the listening address, with the port chosen by the system if none was configured. It is nil before Ready.
func (s *Service) Addr() net.Addr {
	select {
	case <-s.bound:
		return s.addr
	default:
		return nil
	}
}

// Check returns nil while a send to any partition would be accepted and answered; otherwise it returns the reason, as a
// PartitionsError if partitions are the cause. It uses only what is known already: see groupcommit/readiness.go.
func (s *Service) Check() error {
	if s.state.Load() != stateServing {
		return ErrNotServing
	}
	if err := s.commits.CheckConnection(); err != nil {
		return err
	}
	if err := s.permissions.Check(); err != nil {
		return err //nolint:wrapcheck // the error describes the problem
	}
	return s.commits.CheckPartitions()
}

// Run serves until ctx ends, then drains: it stops accepting, answers every request that it has accepted, and returns.
func (s *Service) Run(ctx context.Context) error {
	if !s.state.CompareAndSwap(stateNew, stateServing) {
		return ErrRunTwice
	}
	defer s.state.Store(stateStopped)
	listener := s.listener
	if err := listener.Listen(ctx, s.cfg.APIAddr.String()); err != nil {
		return fmt.Errorf("ingest: listen: %w (choose another address with --api-addr)", err)
	}
	stopCommits, err := s.commits.Start(ctx)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer s.followPermissions(ctx)()
	defer s.access.Watch()()
	server := fastpath.New(pathSend, s.server(), s.log)
	served := make(chan error, 1)
	go func() { // ends with Shutdown or Close below
		served <- server.Serve(listener)
		close(served)
	}()
	s.addr = listener.Addr()
	close(s.bound)
	s.log.Info("ingest is up", "addr", s.addr.String(), "tls", s.access.TLS() != nil, "partitions", int(s.topology))

	select {
	case err = <-served: // the listener failed
		err = fmt.Errorf("ingest: serve: %w", err)
	case <-ctx.Done():
	}
	s.state.Store(stateDraining)
	listener.Hurry()
	err = errors.Join(err, s.drain(ctx, server))
	for range served {
		// ErrServerClosed, and then the end of it.
	}
	listener.Wait()
	return errors.Join(err, stopCommits())
}

// followPermissions keeps the permissions up to date until the returned function is called. It waits up to permissionsWait
// for the first complete read.
func (s *Service) followPermissions(ctx context.Context) (stop func()) {
	following, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a drain still needs them
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.permissions.Run(following) // ends with its context, without an error
	}()
	timer := time.NewTimer(permissionsWait)
	defer timer.Stop()
	select {
	case <-s.permissions.Ready():
	case <-timer.C:
		s.log.Warn("permissions not read in time; answering sends with 503 until they are", "waited", permissionsWait)
	case <-ctx.Done():
	}
	return func() {
		cancel()
		<-ended
	}
}

func (s *Service) server() *http.Server {
	return &http.Server{
		Handler:                      s.handler,
		ReadHeaderTimeout:            s.cfg.HeaderReadTimeout,
		ReadTimeout:                  s.cfg.BodyReadTimeout,
		WriteTimeout:                 s.cfg.WriteTimeout,
		IdleTimeout:                  s.cfg.IdleTimeout,
		MaxHeaderBytes:               s.cfg.HeaderBytesMax,
		DisableGeneralOptionsHandler: true, // OPTIONS * has the error shape too
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// drain waits until every accepted request is answered. Clients that are still sending a request when the grace period
// ends are cut off. Requests that wait for their answers are not: AnswerTimeout is shorter than DrainTimeout.
func (s *Service) drain(ctx context.Context, server *fastpath.Server) error {
	s.log.Info("ingest is draining", "requests", s.inFlight.Load())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	answered, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	go s.cutUploads(answered, cut) // ends with answered
	if err := server.Shutdown(answered); err != nil {
		s.log.Warn("cutting off clients that have not finished sending their request", "error", context.Cause(answered))
		_ = server.Close() // nothing accepted is lost
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), cutTimeout)
		defer cancel()
	}
	// Requests that arrived through Handler instead of the server.
	for s.inFlight.Load() > 0 {
		select {
		case <-s.idle:
		case <-ctx.Done():
			return fmt.Errorf("ingest: drain: %d requests were not answered within %s", s.inFlight.Load(), s.cfg.DrainTimeout)
		}
	}
	return nil
}

// errUploads is the reason for ending a drain early.
var errUploads = fmt.Errorf("still sending %s after the stop began", uploadGrace)

// cutUploads calls cut when the grace period is over and every remaining request is still being sent by its client.
func (s *Service) cutUploads(ctx context.Context, cut context.CancelCauseFunc) {
	for wait := s.uploadGrace; lifecycle.Pause(ctx, wait) == nil; wait = uploadsLook {
		// No new request starts, so the two differ as long as one is being answered.
		before := s.requests.Uploading.Load()
		if s.inFlight.Load() == before && s.requests.Uploading.Load() == before {
			cut(errUploads)
		}
	}
}

// admit admits a request, or returns why not. Either way leave must be called.
func (s *Service) admit() (nth uint64, p outcome.Problem) {
	n := s.inFlight.Add(1)
	switch {
	case s.state.Load() != stateServing:
		return 0, outcome.Problem{Outcome: outcome.Draining}
	case n > int64(s.cfg.RequestsMax):
		return 0, outcome.Problem{Outcome: outcome.Overloaded}
	default:
		return s.admitted.Add(1), outcome.Problem{}
	}
}

func (s *Service) leave() {
	if s.inFlight.Add(-1) == 0 && s.state.Load() == stateDraining {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}
