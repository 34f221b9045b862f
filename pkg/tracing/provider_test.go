package tracing

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	parentTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	sampled     = "00-" + parentTrace + "-00f067aa0ba902b7-01"
	unsampled   = "00-" + parentTrace + "-00f067aa0ba902b7-00"
)

// bundle is a provider, and a collector that does what handler says.
type bundle struct {
	t        *testing.T
	provider *Provider
	registry *prometheus.Registry
	log      *bytes.Buffer
}

func setup(t *testing.T, ratio float64, handler http.HandlerFunc) *bundle {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	b := &bundle{t: t, registry: prometheus.NewRegistry(), log: new(bytes.Buffer)}
	var err error
	b.provider, err = New(t.Context(), Config{OTLPEndpoint: server.URL, TraceRatio: ratio}, Deps{
		Service: "sendhouse-test", Version: "v1", Registerer: b.registry, Logger: slog.New(slog.NewTextHandler(b.log, nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.provider.close(time.Second)) })
	return b
}

// requireSpans holds the metric against what must have become of spans.
func (b *bundle) requireSpans(exported, failed int) {
	b.t.Helper()
	require.NoError(b.t, testutil.GatherAndCompare(b.registry, strings.NewReader(fmt.Sprintf(`
# HELP sendhouse_tracing_spans_total Spans, by what became of them: exported or failed.
# TYPE sendhouse_tracing_spans_total counter
sendhouse_tracing_spans_total{outcome="exported"} %d
sendhouse_tracing_spans_total{outcome="failed"} %d
`, exported, failed))))
}

func request(t *testing.T, traceparent string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/message/send", http.NoBody)
	if traceparent != "" {
		r.Header.Set("Traceparent", traceparent)
	}
	return r
}

func TestSpansReachTheCollector(t *testing.T) {
	t.Parallel()
	got := make(chan *collector.ExportTraceServiceRequest, 1)
	b := setup(t, 0, func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		var in collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &in); err != nil {
			t.Error(err)
		}
		got <- &in
	})
	tracer := b.provider.Tracer("ingest")
	r, span := tracer.Request(request(t, sampled), "/message/send", time.Now())
	require.Same(t, span, tracer.Of(r.Context()))
	require.Equal(t, parentTrace, span.TraceID())
	span.Fail("overloaded")
	span.End()

	for _, header := range []string{"", unsampled, "nonsense"} { // the ratio is 0
		in := request(t, header)
		out, none := tracer.Request(in, "/message/send", time.Now())
		require.Nil(t, none)
		require.Same(t, in, out)
		require.Nil(t, tracer.Of(out.Context()))
	}
	require.NoError(t, b.provider.Close())
	resources := (<-got).GetResourceSpans()
	require.Len(t, resources, 1)
	require.Contains(t, resources[0].GetResource().String(), "sendhouse-test")
	spans := resources[0].GetScopeSpans()[0].GetSpans()
	require.Len(t, spans, 1)
	require.Equal(t, "POST /message/send", spans[0].GetName())
	require.Equal(t, "overloaded", spans[0].GetStatus().GetMessage())
	require.Empty(t, got)
	b.requireSpans(1, 0)
	require.Empty(t, b.log)
}

// A collector that refuses costs the log one line, whatever it refuses, and says so in the metrics.
func TestFailuresDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t, 1, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadRequest) })
	tracer := b.provider.Tracer("ingest")
	for range 5 {
		_, span := tracer.Request(request(t, ""), "/message/send", time.Now())
		span.End()
		require.NoError(t, b.provider.sdk.ForceFlush(t.Context()))
	}
	require.Equal(t, 1, strings.Count(b.log.String(), "\n"), b.log)
	b.requireSpans(0, 5)
}

// A collector that does not answer does not keep the process from ending.
func TestCloseDoesNotWaitForTheCollector(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	b := setup(t, 1, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) }) // before the server is closed, which waits for it
	_, span := b.provider.Tracer("ingest").Request(request(t, ""), "/message/send", time.Now())
	span.End()
	require.NoError(t, b.provider.close(50*time.Millisecond))
}

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	for _, ok := range []Config{{}, {TraceRatio: 1}, {OTLPEndpoint: "https://collector:4318/v1/traces"}} {
		require.NoError(t, ok.Check())
	}
	for want, bad := range map[string]Config{
		"trace-ratio 1.5: must be from 0 to 1":           {TraceRatio: 1.5},
		"otlp-endpoint: must begin with http":            {OTLPEndpoint: "localhost:4318"},
		"otlp-endpoint: must hold no user":               {OTLPEndpoint: "http://me:secret@localhost:4318"},
		"otlp-endpoint: must have no query":              {OTLPEndpoint: "http://localhost:4318/?a=b"},
		"otlp-endpoint: must begin with http:// or http": {OTLPEndpoint: "grpc://localhost:4317"},
	} {
		require.ErrorContains(t, bad.Check(), want)
		require.NotContains(t, bad.Check().Error(), "secret")
	}
	for given, want := range map[string]string{"http://a:1": "http://a:1/v1/traces", "http://a:1/": "http://a:1/v1/traces", "http://a:1/x": "http://a:1/x"} {
		have, err := Config{OTLPEndpoint: given}.endpoint()
		require.NoError(t, err)
		require.Equal(t, want, have)
	}
}

// Switched off, nothing is made and nothing is allocated.
func TestOffCostsNothing(t *testing.T) { //nolint:paralleltest // allocations of others would count
	registry := prometheus.NewRegistry()
	provider, err := New(t.Context(), Config{}, Deps{Registerer: registry, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.Nil(t, provider)
	require.NoError(t, provider.Close())
	tracer, in, now := provider.Tracer("ingest"), request(t, sampled), time.Now()
	var samples Samples
	allocations := testing.AllocsPerRun(1000, func() {
		r, span := tracer.Request(in, "/message/send", now)
		samples.Add(1, tracer.Of(r.Context()))
		batch := tracer.Batch("group commit", now, samples)
		batch.Int("n", 1)
		batch.Fail("no")
		batch.End()
		span.End()
	})
	require.Zero(t, allocations)
	require.Nil(t, samples)
}
