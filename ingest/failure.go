package ingest

import (
	"net/http"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// logFailure logs that a request was answered 5xx, with the name by which the caller knows it: for each reason at once, and then at
// growing intervals. How many there are is for the metrics.
func (s *Service) logFailure(w http.ResponseWriter, route string, p problem) {
	status := p.outcome.spec().status
	if status < http.StatusInternalServerError {
		return
	}
	skipped, due := s.failures[p.outcome].Due(p.outcome.spec().code)
	if !due {
		return
	}
	log := s.log.Warn
	if p.outcome == outcomeInternal {
		log = s.log.Error
	}
	log("a request failed", "request_id", api.RequestID(w), "route", route, "status", status, "code", p.outcome.spec().code, "detail", p.message(), "skipped", skipped)
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
