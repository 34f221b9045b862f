package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
	"github.com/sendhouse/sendhouse/writer/history/recent"
)

// The routes.
const (
	pathSync      = "/channel/messagesync"
	pathSyncBatch = "/channel/messagesyncbatch"
	pathMaxSeq    = "/channel/max_message_seq"
	pathLast      = "/channel/last_message"
	pathMessages  = "/messages"
	pathMessage   = "/message"
	pathByKey     = "/message/byclientmsgno"
	pathStatus    = "/message/status"
)

// waitersPerSlot is the number of requests that may wait per slot.
const waitersPerSlot = 8

// table is the part of a *clickhouse.Client that reads messages; tests replace it.
type table interface {
	Page(ctx context.Context, channel clickhouse.Channel, r clickhouse.Range, each func(*clickhouse.Row) error) error
	Sent(ctx context.Context, channel clickhouse.Channel, fromUID, clientMsgNo string) (clickhouse.Identity, bool, error)
	BySeq(ctx context.Context, channel clickhouse.Channel, seqs []uint64, each func(*clickhouse.Row) error) error
	ByID(ctx context.Context, channel clickhouse.Channel, ids []int64, each func(*clickhouse.Row) error) error
	ByClientMsgNo(ctx context.Context, channel clickhouse.Channel, clientMsgNos []string, each func(*clickhouse.Row) error) error
	LastSeq(ctx context.Context, channel clickhouse.Channel) (uint64, error)
}

// Deps holds the dependencies of the service. All fields must be set.
type Deps struct {
	// ClickHouse remains open when the service ends. It need not be reachable yet.
	ClickHouse *clickhouse.Client
	// NATS is a connection that reconnects forever; JetStream uses it.
	NATS      *nats.Conn
	JetStream jetstream.JetStream
	// Partitions is the deployment's number of partitions.
	Partitions topology.Partitions
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service serves the routes. Close it in the end.
type Service struct {
	cfg        Config
	table      table
	recent     *recent.Log
	logs       *logs
	partitions topology.Partitions
	log        *slog.Logger
	metrics    *metrics
	now        func() time.Time

	slots   chan struct{}
	waiting atomic.Int64
	unread  atomic.Int64 // bytes of replies that are being written
	failing atomic.Bool  // the last logged state of ClickHouse
}

// New validates cfg and deps and reports all errors together. It connects to nothing.
func New(cfg Config, deps Deps) (*Service, error) {
	errs := []error{cfg.Check()}
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is missing", what))
		}
	}
	require(deps.ClickHouse != nil, "the ClickHouse client")
	require(deps.NATS != nil, "the NATS connection")
	require(deps.JetStream != nil, "JetStream")
	require(deps.Logger != nil, "the logger")
	require(deps.Registerer != nil, "the metrics registerer")
	if _, err := topology.NewPartitions(int(deps.Partitions)); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	s := &Service{
		cfg: cfg, table: deps.ClickHouse, logs: &logs{nc: deps.NATS, js: deps.JetStream}, partitions: deps.Partitions,
		log: deps.Logger.With("component", "history"), now: time.Now,
		slots: make(chan struct{}, cfg.HistoryRequestsMax),
	}
	var err error
	s.metrics, err = newMetrics(deps.Registerer, func() float64 { return float64(len(s.slots)) })
	if err != nil {
		return nil, fmt.Errorf("history: metrics: %w", err)
	}
	s.recent, err = recent.New(recent.Config{
		JetStream: deps.JetStream, Partitions: deps.Partitions, BytesMax: int(cfg.HistoryTailBytesMax), Now: func() time.Time { return s.now() },
		Logger: s.log, Registerer: deps.Registerer,
	})
	if err != nil {
		return nil, fmt.Errorf("history: metrics: %w", err)
	}
	return s, nil
}

// Close ends what follows the message logs. Reads fail from then on.
func (s *Service) Close() error { return s.recent.Close() }

// Routes returns the routes of the service.
func (s *Service) Routes() []api.Route {
	return routes(func(path string, e endpoint) http.HandlerFunc {
		return s.route(path, func(w http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) { return e(s, w, r) })
	})
}

// NotServed returns the same routes for a process without ClickHouse: they reply that it has none.
func NotServed() []api.Route {
	return routes(func(string, endpoint) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { notServed().Write(w) }
	})
}

// endpoint serves one route and returns the body of a 200.
type endpoint func(s *Service, w http.ResponseWriter, r *http.Request) ([]byte, *api.Problem)

func routes(serve func(path string, e endpoint) http.HandlerFunc) []api.Route {
	route := func(method, path string, needs api.Scope, e endpoint) api.Route {
		return api.Route{Method: method, Path: path, Needs: needs, Serve: serve(path, e)}
	}
	return []api.Route{
		route(http.MethodPost, pathSync, api.ScopeRead, (*Service).sync),
		route(http.MethodPost, pathSyncBatch, api.ScopeRead, (*Service).syncBatch),
		route(http.MethodGet, pathMaxSeq, api.ScopeRead, (*Service).maxSeq),
		route(http.MethodGet, pathLast, api.ScopeRead, (*Service).last),
		route(http.MethodPost, pathMessages, api.ScopeRead, (*Service).messages),
		route(http.MethodPost, pathMessage, api.ScopeRead, (*Service).message),
		route(http.MethodGet, pathByKey, api.ScopeRead, (*Service).byKey),
		// A client that may send may ask for the state of a send: the reply holds nothing that the send's reply did not.
		route(http.MethodGet, pathStatus, api.ScopeRead|api.ScopeSend, (*Service).status),
	}
}

// A reader may take answerTimeout for a reply, plus the time that it takes at readBytesPerSecond.
const (
	answerTimeout      = 5 * time.Second
	readBytesPerSecond = 1 << 20
)

// route turns an endpoint into a handler with metrics and error replies.
func (s *Service) route(path string, endpoint func(w http.ResponseWriter, r *http.Request) ([]byte, *api.Problem)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		body, problem := endpoint(w, r)
		if problem == nil {
			problem = s.write(w, body)
		}
		code := "ok"
		if problem != nil {
			code = problem.Code
			problem.Write(w)
		}
		s.metrics.requests.WithLabelValues(path, code).Inc()
		s.metrics.requestDuration.WithLabelValues(path).Observe(time.Since(start).Seconds())
	}
}

// write sends a reply, unless the unread replies leave no room for it: together they may be as large as a full page for
// each slot. It always accepts a single one, because a page can be somewhat larger than estimated.
func (s *Service) write(w http.ResponseWriter, body []byte) *api.Problem {
	size := int64(len(body))
	defer s.unread.Add(-size)
	if unread := s.unread.Add(size); unread > size && unread > int64(cap(s.slots))*int64(s.cfg.HistoryPageBytesMax) {
		return overloaded()
	}
	patience := answerTimeout + time.Duration(size)*time.Second/readBytesPerSecond
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(patience)) // only a test's writer does not support it
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // the client has gone
	return nil
}

// admit waits for a slot, within the time of ctx. The caller must call leave unless there is a problem.
func (s *Service) admit(ctx context.Context) (leave func(), problem *api.Problem) {
	leave = func() { <-s.slots }
	select {
	case s.slots <- struct{}{}:
		return leave, nil
	default:
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > int64(cap(s.slots)*waitersPerSlot) {
		return nil, overloaded()
	}
	select {
	case s.slots <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, overloaded()
	}
}

// tableFailed logs the first of several failures, tableWorks the end of them.
func (s *Service) tableFailed(err error) {
	if !s.failing.Swap(true) {
		s.log.Warn("clients cannot read from ClickHouse", "error", err, "class", clickhouse.ClassOf(err).String())
	}
}

func (s *Service) tableWorks() {
	if s.failing.Load() && s.failing.Swap(false) {
		s.log.Info("clients can read from ClickHouse again")
	}
}
