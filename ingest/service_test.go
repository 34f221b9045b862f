package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

var (
	_ lifecycle.Service = (*Service)(nil)
	_ lifecycle.Readier = (*Service)(nil)
)

func TestNewReportsEverything(t *testing.T) {
	t.Parallel()
	cfg := defaultConfig(t)
	require.NoError(t, cfg.Check(guard.Hosts{}), "the defaults are good")

	_, err := New(Config{}, Deps{})
	require.Error(t, err)
	for _, what := range []string{
		"api-addr", "payload-bytes-max", "body-bytes-max", "requests-max", "queue-sends-max", "queue-bytes-max", "wait-max", "ack-timeout", "answer-timeout",
		"header-read-timeout", "write-timeout", "idle-timeout", "header-bytes-max", "undefined-channels", "stale-max", "NATS connection", "JetStream", "logger", "registerer", "partitions",
	} {
		require.ErrorContains(t, err, what)
	}
}

func TestNewReportsMetricsRegisteredBefore(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	_, err := New(defaultConfig(t), Deps{NATS: b.nc, JetStream: b.js, Partitions: 1, Logger: logger(t), Registerer: b.registry})
	require.ErrorAs(t, err, new(prometheus.AlreadyRegisteredError))
}

func TestRunTwice(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	require.ErrorIs(t, b.service.Run(t.Context()), ErrRunTwice)
}

func TestAddressTaken(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	cfg := defaultConfig(t)
	require.NoError(t, cfg.APIAddr.UnmarshalText([]byte(b.service.Addr().String())))
	s, err := New(cfg, Deps{NATS: b.nc, JetStream: b.js, Partitions: 1, Logger: logger(t), Registerer: prometheus.NewRegistry()})
	require.NoError(t, err)
	require.Nil(t, s.Addr())
	require.ErrorIs(t, s.Check(), ErrNotServing)
	require.ErrorContains(t, s.Run(t.Context()), "--api-addr")
}

// TestDrain: accepted requests are answered, later ones are refused.
func TestDrain(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	var answers []<-chan got
	answers = append(answers, b.async(send("g", "0")))
	r := wal.Next()
	for i := range 20 {
		answers = append(answers, b.async(send("g", fmt.Sprint(i+1))))
	}
	b.queued(0, 20)

	b.stop()
	require.Eventually(t, func() bool { return errors.Is(b.service.Check(), ErrNotServing) }, testTimeout, time.Millisecond)
	require.ErrorIs(t, b.service.Check(), ErrNotServing)
	late := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, "http://localhost/message/send", strings.NewReader(example))
	req.Header.Set("Content-Type", "application/json")
	b.service.Handler().ServeHTTP(late, req)
	require.Equal(t, http.StatusServiceUnavailable, late.Code)
	require.Contains(t, late.Body.String(), `"code":"draining"`)
	require.NotEmpty(t, late.Header().Get("Retry-After"))

	r.Answer(1)
	wal.Next().Answer(2)
	for _, c := range answers {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
	err := receive(t, b.ended)
	b.ended <- err // for the clean-up
	require.NoError(t, err)
	_, err = net.Dial("tcp", b.service.Addr().String())
	require.Error(t, err)
}

// TestDrainCutsUploads: a client that stops sending its request delays the end of the process by no more than the grace
// period, even while other requests, which are waited for, are answered.
func TestDrainCutsUploads(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.HeaderReadTimeout, c.BodyReadTimeout, c.WriteTimeout, c.DrainTimeout = time.Hour, time.Hour, 3*time.Hour, time.Hour
	}})
	wal := b.script(0)
	for path, uploads := range map[string]bool{"/message/send": true, "/message/sendbulk": true, "/channel": true, "/message/send HTTP/1.1\r\nHost:": false} {
		conn, err := net.Dial("tcp", b.service.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		before := b.service.requests.Uploading.Load()
		_, err = fmt.Fprintf(conn, "POST %s", path)
		require.NoError(t, err)
		if uploads {
			_, err = fmt.Fprint(conn, " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[")
			require.NoError(t, err)
			require.Eventually(t, func() bool { return b.service.requests.Uploading.Load() > before }, testTimeout, time.Millisecond, path)
		}
	}
	answered := b.async(send("g", "0"))
	r := wal.Next()
	b.service.uploadGrace = time.Millisecond
	b.stop()
	require.Eventually(t, func() bool { return errors.Is(b.service.Check(), ErrNotServing) }, testTimeout, time.Millisecond)
	require.EqualValues(t, 3, b.service.requests.Uploading.Load(), "none is cut off while a send waits for its answer")
	r.Answer(1)
	require.Equal(t, http.StatusOK, receive(t, answered).status)
	err := receive(t, b.ended)
	b.ended <- err // for the clean-up
	require.NoError(t, err)
}

// TestDrainWaitsForHandler: requests that did not arrive through the server count too.
func TestDrainWaitsForHandler(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	res := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, "http://localhost/message/send", strings.NewReader(example))
	req.Header.Set("Content-Type", "application/json")
	served := make(chan struct{})
	go func() {
		defer close(served)
		b.service.Handler().ServeHTTP(res, req)
	}()
	r := wal.Next()
	b.stop()
	require.Eventually(t, func() bool { return errors.Is(b.service.Check(), ErrNotServing) }, testTimeout, time.Millisecond)
	select {
	case err := <-b.ended:
		require.Fail(t, "Run returned with a request in flight", err)
	default:
	}
	r.Answer(1)
	receive(t, served)
	require.Equal(t, http.StatusOK, res.Code, res.Body.String())
}

// TestDrainCutsOffSlowClients: a client that never finishes its body does not delay the drain.
func TestDrainCutsOffSlowClients(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.AckTimeout, c.AnswerTimeout, c.DrainTimeout = 100*time.Millisecond, 100*time.Millisecond, 200*time.Millisecond
	}})
	conn, err := net.Dial("tcp", b.service.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return b.service.inFlight.Load() == 1 }, testTimeout, time.Millisecond)
	b.stop()
	err = receive(t, b.ended)
	b.ended <- err
	require.NoError(t, err)
}

// TestSlowBody: a request whose body does not arrive is answered, and the connection closed.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.HeaderReadTimeout, c.BodyReadTimeout = 100*time.Millisecond, 200*time.Millisecond
	}})
	conn, err := net.Dial("tcp", b.service.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(testTimeout)))
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "HTTP/1.1 400 ")
	require.Contains(t, string(answer), `"code":"body_unreadable"`)
}

func TestBodiesShareABudget(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.BodiesBytesMax = 8 << 20 }})
	b.sequence()
	large := with(`"x":"` + strings.Repeat("x", 3<<20) + `"`)
	budget := b.service.requests.Budget
	require.True(t, budget.Take(6<<20))
	g, err := b.try(large)
	require.NoError(t, err)
	require.Equal(t, "overloaded", g.code())
	requireShape(t, g)
	require.Equal(t, http.StatusOK, b.post(example).status, "small bodies need none of it")
	budget.GiveBack(6 << 20)
	require.Equal(t, http.StatusOK, b.post(large).status)
	require.Equal(t, int64(8<<20), budget.Left(), "all of it was given back")
}

func TestPanicIsA500(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	b := setup(t, options{partitions: 1, noStreams: true, log: slog.New(slog.NewTextHandler(&log, nil))})
	res := httptest.NewRecorder()
	b.service.recovered(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })).
		ServeHTTP(res, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusInternalServerError, res.Code)
	require.Contains(t, res.Body.String(), `"code":"internal"`)
	require.NotContains(t, res.Body.String(), "secret")
	require.Contains(t, log.String(), "secret")
	require.Panics(t, func() {
		b.service.recovered(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	})
}

// TestServerRestarts: the NATS server stops during requests, and restarts.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	require.NoError(t, b.service.Check())

	// The log's stream exists, but no sequencer answers: a request that waits.
	waits := b.async(send("g", "waits"))
	require.Eventually(t, func() bool {
		return b.service.commits.Load(0).Unanswered == 1 && b.metric("sendhouse_ingest_ack_duration_seconds", "") == 1
	}, testTimeout, time.Millisecond)

	b.server.Shutdown()
	require.Eventually(t, func() bool { return errors.Is(b.service.Check(), groupcommit.ErrDisconnected) }, testTimeout, time.Millisecond)
	require.ErrorIs(t, b.service.Check(), groupcommit.ErrDisconnected)
	g := b.post(send("g", "away"))
	require.Equal(t, "wal_unavailable", g.code(), g.raw)
	requireShape(t, g)
	res, err := b.client.Get(b.url + "/readyz")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)

	b.startServer(b.addr)
	require.Eventually(t, func() bool { return b.service.Check() == nil }, testTimeout, time.Millisecond)
	b.sequence() // reads the log from its beginning, and answers the waiting request
	g = receive(t, waits)
	require.Contains(t, []string{"", "no_answer"}, g.code(), "it was durable")
	// JetStream may need a moment to have its streams again.
	require.Eventually(t, func() bool {
		g, err := b.try(send("g", "back"))
		return err == nil && g.status == http.StatusOK
	}, testTimeout, time.Millisecond)
	g = b.post(send("g", "waits"))
	require.Equal(t, http.StatusOK, g.status)
	require.Equal(t, "true", g.header.Get("Idempotent-Replayed"))
	requireForgotten(t, b)
}

// TestDisconnectAnswersAtOnce: sends in flight when the connection breaks do not wait for a timeout.
func TestDisconnectAnswersAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.AckTimeout, c.AnswerTimeout, c.DrainTimeout, c.WriteTimeout = time.Hour, time.Hour, time.Hour, 3*time.Hour
	}})
	wal := b.script(0)
	flies := b.async(send("g", "flies"))
	wal.Next()
	waits := b.async(send("g", "waits"))
	b.queued(0, 1)
	b.server.Shutdown()
	g := receive(t, flies)
	require.Equal(t, "outcome_unknown", g.code(), g.raw)
	g = receive(t, waits)
	require.Equal(t, "wal_unavailable", g.code(), g.raw)
	requireForgotten(t, b)
}

func TestClosedConnection(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	b.nc.Close()
	require.Eventually(t, func() bool { return errors.Is(b.service.Check(), groupcommit.ErrDisconnected) }, testTimeout, time.Millisecond)
	require.Equal(t, "wal_unavailable", b.post(example).code())
	// The clean-up checks that Run still returns without an error.
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2})
	b.sequence()
	b.post(example)
	b.post(example)
	b.post(`{}`)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_requests_total", `reason="accepted"`), 0)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_requests_total", `reason="duplicate"`), 0)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_requests_total", `reason="invalid_request"`), 0)
	require.InDelta(t, 0, b.metric("sendhouse_ingest_queue_sends", `partition="1"`), 0)
	require.InDelta(t, 3, b.metric("sendhouse_ingest_request_duration_seconds", `route="send"`), 0)
	require.InDelta(t, 2, b.metric("sendhouse_ingest_batch_sends", ""), 0)
	families, err := b.registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		require.True(t, strings.HasPrefix(family.GetName(), "sendhouse_ingest_"), family.GetName())
		require.NotEmpty(t, family.GetHelp())
	}
}

// metric returns the value of a counter or gauge, or the count of a histogram, whose labels contain label.
func (b *bundle) metric(name, label string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	require.NoError(b.t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels strings.Builder
			for _, l := range m.GetLabel() {
				fmt.Fprintf(&labels, "%s=%q,", l.GetName(), l.GetValue())
			}
			if strings.Contains(labels.String(), label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	require.FailNow(b.t, "no such metric", "%s %s", name, label)
	return 0
}

// TestNoGoroutineIsLeft is not parallel, since goroutines of other tests would be counted.
func TestNoGoroutineIsLeft(t *testing.T) { //nolint:paralleltest // see above
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: t.TempDir(), Addr: "127.0.0.1:0", StoreBytesMax: 1 << 30, Logger: logger(t)})
	require.NoError(t, err)
	defer server.Shutdown()
	nc, err := nats.Connect(server.URL(), server.Operator())
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	for _, bucket := range topology.DefaultOptions().BucketConfigs() {
		_, err := js.CreateKeyValue(t.Context(), bucket)
		require.NoError(t, err)
	}
	before := nc.NumSubscriptions() // the client's own, for replies
	for range 3 {
		s, err := New(defaultConfig(t), Deps{NATS: nc, JetStream: js, Partitions: 8, Logger: logger(t), Registerer: prometheus.NewRegistry()})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		receive(t, s.Ready())
		res, err := http.Post("http://"+s.Addr().String()+"/message/send", "application/json", strings.NewReader(example))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		cancel()
		require.NoError(t, receive(t, ended))
	}
	http.DefaultClient.CloseIdleConnections()
	require.Eventually(t, func() bool {
		return !strings.Contains(stacks(), "sendhouse/ingest.(*Service)") && !strings.Contains(stacks(), "sendhouse/ingest/permission")
	}, testTimeout, time.Millisecond, "left behind")
	require.Equal(t, before, nc.NumSubscriptions())
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
