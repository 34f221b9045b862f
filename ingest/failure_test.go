package ingest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// lines collects a log as JSON objects, one per line.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// with returns the lines with a message.
func (l *lines) with(t *testing.T, msg string) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var one map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &one), line)
		if one["msg"] == msg {
			found = append(found, one)
		}
	}
	return found
}

// A failed request is logged with its request ID: the caller's, if it sent one, or a generated one. Of many that fail for
// the same reason in a short time, the first is logged.
func TestFailedRequestIsNamed(t *testing.T) {
	t.Parallel()
	var log lines
	b := setup(t, options{partitions: 1, noStreams: true, log: slog.New(slog.NewJSONHandler(&log, nil)), routes: []api.Route{
		{Method: http.MethodGet, Path: "/panic", Needs: api.ScopeRead, Serve: func(http.ResponseWriter, *http.Request) { panic("a bug") }},
		{Method: http.MethodGet, Path: "/flush", Needs: api.ScopeRead, Serve: func(w http.ResponseWriter, _ *http.Request) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("the writer below cannot be reached: %v", err)
			}
			_, _ = w.Write([]byte("{}"))
		}},
		{Method: http.MethodGet, Path: "/busy", Needs: api.ScopeRead, Serve: func(w http.ResponseWriter, _ *http.Request) {
			api.Problem{Status: http.StatusServiceUnavailable, Code: "busy"}.Write(w)
		}},
	}})
	ask := func(method, path, body, id string) got {
		req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if id != "" {
			req.Header.Set("X-Request-Id", id)
		}
		g, err := b.do(req)
		require.NoError(t, err)
		return g
	}

	g := ask(http.MethodPost, "/message/send", example, "proxy-7")
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "proxy-7", g.header.Get("X-Request-Id"))
	for range 3 {
		require.Equal(t, g.code(), ask(http.MethodPost, "/message/send", example, "").code())
	}
	failed := log.with(t, "request failed")
	require.Len(t, failed, 1)
	require.Equal(t, "proxy-7", failed[0]["request_id"])
	require.Equal(t, "send", failed[0]["route"])
	require.Equal(t, g.code(), failed[0]["code"])
	require.Equal(t, "WARN", failed[0]["level"])

	g = ask(http.MethodGet, "/panic", "", "two words")
	require.Equal(t, http.StatusInternalServerError, g.status)
	id := g.header.Get("X-Request-Id")
	require.NotEmpty(t, id)
	require.NotEqual(t, "two words", id)
	panics := log.with(t, "request panicked")
	require.Len(t, panics, 1)
	require.Equal(t, id, panics[0]["request_id"])

	// Routes of other packages.
	require.Equal(t, http.StatusOK, ask(http.MethodGet, "/flush", "", "").status)
	require.Equal(t, http.StatusServiceUnavailable, ask(http.MethodGet, "/busy", "", "reader-1").status)
	require.Equal(t, http.StatusServiceUnavailable, ask(http.MethodGet, "/busy", "", "reader-2").status)
	failed = log.with(t, "request failed")
	require.Len(t, failed, 2)
	require.Equal(t, "reader-1", failed[1]["request_id"])
	require.Equal(t, "/busy", failed[1]["route"])

	g = ask(http.MethodPost, "/message/send", "{", "")
	require.Equal(t, http.StatusBadRequest, g.status)
	require.NotEmpty(t, g.header.Get("X-Request-Id"))
	require.NotEqual(t, id, g.header.Get("X-Request-Id"))
	require.Len(t, log.with(t, "request failed"), 2, "that a caller is wrong is not for the operator's log")
}

// traceSetup returns a service that sends traces of the requests that its callers trace to a collector. flush ends the
// tracing.
func traceSetup(t *testing.T) (b *bundle, collector *testkit.Collector, flush func()) {
	t.Helper()
	collector = testkit.StartCollector(t)
	provider, err := tracing.New(t.Context(), tracing.Config{OTLPEndpoint: collector.URL}, tracing.Deps{
		Service: "test", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	o := one()
	o.tracer = provider.Tracer("ingest")
	b = setup(t, o)
	return b, collector, func() {
		t.Helper()
		b.stop() // after the last request
		require.NoError(t, <-b.ended)
		b.ended <- nil
		require.NoError(t, provider.Close())
	}
}

// traced posts in the background, as the child of span n of trace n.
func (b *bundle) traced(path, body string, n int) <-chan got {
	req, err := http.NewRequest(http.MethodPost, b.url+path, bytes.NewReader([]byte(body)))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", fmt.Sprintf("00-%032x-%016x-01", n, n))
	c := make(chan got, 1)
	go func() {
		g, _ := b.do(req) // the response to a bulk is an array
		c <- g
	}()
	return c
}

// A group commit names, next to its record, which of its sends are traced: one per request, up to a limit.
func TestGroupCommitNamesWhatIsTraced(t *testing.T) {
	t.Parallel()
	b, collector, flush := traceSetup(t)
	wal := b.script(0)
	answers := []<-chan got{b.async(send("g", "first"))}
	r := wal.Next()
	require.NotContains(t, r.Msg.Header, topology.HeaderTrace, "nothing in it is traced")
	const many = 40
	answers = append(answers, b.async(send("g", "second")))
	b.queued(0, 1)
	answers = append(answers, b.traced("/message/sendbulk", "["+send("g", "a")+","+send("g", "b")+"]", 1))
	b.queued(0, 3)
	for n := range many {
		answers = append(answers, b.traced("/message/send", send("g", fmt.Sprint(n)), n+2))
	}
	b.queued(0, 3+many)
	r.Ack()
	full := wal.Next()
	require.Len(t, full.Sends, 3+many)
	samples := tracing.ParseSamples(full.Msg.Header.Get(topology.HeaderTrace))
	require.Len(t, samples, tracing.SamplesMax)
	require.EqualValues(t, 1, samples[0].Place)
	require.EqualValues(t, 3, samples[1].Place, "the other one of the bulk is not followed")
	require.Equal(t, fmt.Sprintf("%032x", 1), samples[0].Parent.TraceID().String())
	full.Ack()
	r.Answer(1)
	full.Answer(2)
	for _, c := range answers {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
	flush()

	require.Len(t, collector.Named("POST /message/send"), many)
	require.Len(t, collector.Named("POST /message/sendbulk"), 1)
	commits := collector.Named("group commit")
	require.Len(t, commits, 1)
	require.Len(t, commits[0].GetLinks(), tracing.SamplesMax)
	require.Equal(t, collector.Named("POST /message/sendbulk")[0].GetSpanId(), commits[0].GetParentSpanId())
	require.Zero(t, commits[0].GetStatus().GetCode())
}

// Failures appear in the traces of the commit and of the request.
func TestTraceOfAFailure(t *testing.T) {
	t.Parallel()
	b, collector, flush := traceSetup(t)
	wal := b.script(0)
	refused := b.traced("/message/send", send("g", "1"), 1)
	wal.Next().Refuse(503, 10077, "maximum bytes exceeded")
	require.Equal(t, http.StatusServiceUnavailable, receive(t, refused).status)
	require.Equal(t, http.StatusBadRequest, receive(t, b.traced("/message/send", "{", 2)).status)
	flush()
	commits, requests := collector.Named("group commit"), collector.Named("POST /message/send")
	require.Len(t, commits, 1)
	require.Len(t, requests, 2)
	require.Equal(t, outcome.WALFull.Spec().Code, commits[0].GetStatus().GetMessage())
	require.Equal(t, outcome.WALFull.Spec().Code, requests[0].GetStatus().GetMessage())
	require.Zero(t, requests[1].GetStatus().GetCode(), "a caller's mistake is no error of ours")
}
