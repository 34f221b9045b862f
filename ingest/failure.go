package ingest

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// logFailure logs a request that was answered 5xx, with the request ID that the caller received: the first one for each
// reason at once, later ones at growing intervals. The metrics count all of them.
func (s *Service) logFailure(w http.ResponseWriter, route string, p outcome.Problem) {
	status := p.Outcome.Spec().Status
	if status < http.StatusInternalServerError {
		return
	}
	skipped, due := s.failures[p.Outcome].Due(p.Outcome.Spec().Code)
	if !due {
		return
	}
	log := s.log.Warn
	if p.Outcome == outcome.Internal {
		log = s.log.Error
	}
	log("request failed", "request_id", api.RequestID(w), "route", route, "status", status, "code", p.Outcome.Spec().Code, "detail", p.Message(), "skipped", skipped)
}

// logHostedFailure does the same for a route of another package, which knows the cause.
func (s *Service) logHostedFailure(w *statusWriter, route api.Route, failing *lifecycle.Repeated) {
	if skipped, due := failing.Due(route.Path); due {
		s.log.Warn("request failed", "request_id", api.RequestID(w), "route", route.Path, "status", w.status, "skipped", skipped)
	}
}

// statusWriter remembers the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int // 0: none was written
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // not an informational one
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap gives http.ResponseController access to the underlying writer.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// traced starts the span of a request, if the request is traced.
func (s *Service) traced(r *http.Request, start time.Time) (*http.Request, *tracing.Span) {
	if s.tracer == nil {
		return r, nil
	}
	return s.tracer.Request(r, chi.RouteContext(r.Context()).RoutePattern(), start)
}

// endTrace ends the span of a request, and adds its trace as an exemplar to the duration histogram.
func endTrace(w http.ResponseWriter, span *tracing.Span, p outcome.Problem, duration prometheus.Observer, start time.Time) {
	answer := p.Outcome.Spec()
	span.Int("http.response.status_code", int64(answer.Status))
	span.Text("sendhouse.reason", answer.Code)
	span.Text("sendhouse.request_id", api.RequestID(w))
	if answer.Status >= http.StatusInternalServerError {
		span.Fail(answer.Code)
	}
	span.End()
	took := time.Since(start).Seconds()
	if e, ok := duration.(prometheus.ExemplarObserver); ok {
		e.ObserveWithExemplar(took, prometheus.Labels{"trace_id": span.TraceID()})
		return
	}
	duration.Observe(took)
}
