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
