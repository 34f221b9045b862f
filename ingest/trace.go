package ingest

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// traced begins the span of a request, where it is traced.
func (s *Service) traced(r *http.Request, start time.Time) (*http.Request, *tracing.Span) {
	if s.tracer == nil {
		return r, nil
	}
	return s.tracer.Request(r, chi.RouteContext(r.Context()).RoutePattern(), start)
}

// endTrace ends the span of a request, and shows its trace at the place in the histogram where its duration is.
func endTrace(w http.ResponseWriter, span *tracing.Span, p problem, duration prometheus.Observer, start time.Time) {
	answer := p.outcome.spec()
	span.Int("http.response.status_code", int64(answer.status))
	span.Text("sendhouse.reason", answer.code)
	span.Text("sendhouse.request_id", api.RequestID(w))
	if answer.status >= http.StatusInternalServerError {
		span.Fail(answer.code)
	}
	span.End()
	took := time.Since(start).Seconds()
	if e, ok := duration.(prometheus.ExemplarObserver); ok {
		e.ObserveWithExemplar(took, prometheus.Labels{"trace_id": span.TraceID()})
		return
	}
	duration.Observe(took)
}
