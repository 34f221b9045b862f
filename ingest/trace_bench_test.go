package ingest

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// BenchmarkTracing is BenchmarkHandler at 64 connections with tracing off, as it is by default, and with a share of the requests
// traced, whose spans go to a collector that reads them and does nothing.
func BenchmarkTracing(b *testing.B) {
	for _, row := range []struct {
		name string
		cfg  tracing.Config
	}{
		{"off", tracing.Config{}},
		{"share=0", tracing.Config{TraceRatio: 0, OTLPEndpoint: "collector"}},
		{"share=0.01", tracing.Config{TraceRatio: 0.01, OTLPEndpoint: "collector"}},
		{"share=1", tracing.Config{TraceRatio: 1, OTLPEndpoint: "collector"}},
	} {
		b.Run(row.name, func(b *testing.B) {
			if row.cfg.OTLPEndpoint != "" {
				collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
				b.Cleanup(collector.Close)
				row.cfg.OTLPEndpoint = collector.URL
			}
			provider, err := tracing.New(b.Context(), row.cfg, tracing.Deps{Service: "bench", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, provider.Close()) })
			s := setup(b, options{partitions: 4, tracer: provider.Tracer("ingest")})
			s.toy()
			load(b, s.service.Addr().String(), 64, b.N, benchBody)
		})
	}
}

// BenchmarkTracingOff is all that tracing adds to a request where it is off: the calls that a send makes which is alone in its
// group commit.
func BenchmarkTracingOff(b *testing.B) {
	provider, err := tracing.New(b.Context(), tracing.Config{}, tracing.Deps{Service: "bench", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	require.NoError(b, err)
	s := &Service{committer: &committer{tracer: provider.Tracer("ingest")}}
	p := &partition{committer: s.committer}
	r := httptest.NewRequest(http.MethodPost, "http://localhost/message/send", strings.NewReader(example))
	commit, start := &batch{sends: 1}, time.Now()
	b.ReportAllocs()
	for b.Loop() {
		request, span := s.traced(r, start)
		commit.samples.Add(0, s.tracer.Of(request.Context()))
		p.trace(commit)
		commit.span.End()
		if span != nil || commit.span != nil {
			b.Fatal("something is traced")
		}
	}
}
