package ingest

import (
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// failureInterval is how often the log repeats that requests fail for one reason. How many there are is for the metrics.
const failureInterval = 10 * time.Second

// logFailure logs that a request was answered 5xx: the first for each reason in each interval, with the name by which the
// caller knows it.
func (s *Service) logFailure(w http.ResponseWriter, route string, p problem) {
	status := p.outcome.spec().status
	if status < http.StatusInternalServerError {
		return
	}
	skipped, due := s.failures[p.outcome].due()
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
func (s *Service) logHostedFailure(w *statusWriter, route api.Route, failing *warner) {
	if skipped, due := failing.due(); due {
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
