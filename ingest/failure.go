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

// logFailure logs that a request was answered 5xx, with the name by which the caller knows it: for each reason at once, and then at
// growing intervals. How many there are is for the metrics.
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
	log("a request failed", "request_id", api.RequestID(w), "route", route, "status", status, "code", p.Outcome.Spec().Code, "detail", p.Message(), "skipped", skipped)
}

// logHostedFailure does the same for a route of somebody else's, who knows the cause.
func (s *Service) logHostedFailure(w *statusWriter, route api.Route, failing *lifecycle.Repeated) {
	if skipped, due := failing.Due(route.Path); due {
		s.log.Warn("a request failed", "request_id", api.RequestID(w), "route", route.Path, "status", w.status, "skipped", skipped)
	}
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int // 0: none was written
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // not one that only informs
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the writer below.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// traced begins the span of a request, where it is traced.
func (s *Service) traced(r *http.Request, start time.Time) (*http.Request, *tracing.Span) {
	if s.tracer == nil {
		return r, nil
	}
	return s.tracer.Request(r, chi.RouteContext(r.Context()).RoutePattern(), start)
}

// endTrace ends the span of a request, and shows its trace at the place in the histogram where its duration is.
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
