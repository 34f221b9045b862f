package ingest

import (
	"net/http"
	"strconv"
	"time"

	"github.com/sendhouse/sendhouse/ingest/outcome"
)

// window is GET /message/window: for how long a send is known by its client_msg_no in every partition, and what sendbulk can do.
func (s *Service) window(w http.ResponseWriter, _ *http.Request, _ time.Time, _ uint64) outcome.Problem {
	answer := []byte(`{`)
	if remembers := s.commits.Remembers(); remembers > 0 {
		answer = strconv.AppendInt(append(answer, `"remembers_ms":`...), remembers.Milliseconds(), 10)
		answer = append(answer, ',')
	}
	answer = append(answer, `"ordered_bulks":true}`+"\n"...)
	w.Header()["Content-Type"] = s.contentType
	_, _ = w.Write(answer) // a caller that has gone asks again
	return outcome.Problem{}
}
