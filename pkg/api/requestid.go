package api

import (
	"net/http"

	"github.com/nats-io/nuid"
)

// HeaderRequestID names a request, in an answer and in the log. A request may bring a name of its own, for example that of
// a proxy's log; without one, an answer that is an error is given a name, and others have none.
const HeaderRequestID = "X-Request-Id"

// requestIDBytesMax bounds what a client may put into the log.
const requestIDBytesMax = 128

// TakeRequestID puts the name that a request brings, if it is one, into the answer.
func TakeRequestID(w http.ResponseWriter, r *http.Request) {
	if given := r.Header[HeaderRequestID]; len(given) > 0 && validRequestID(given[0]) {
		w.Header()[HeaderRequestID] = given[:1:1]
	}
}

// RequestID is the name of the request that w answers; where it has none yet, it is given one. Call it before the header is written.
func RequestID(w http.ResponseWriter) string {
	if id := first(w.Header(), HeaderRequestID); id != "" {
		return id
	}
	id := nuid.Next()
	w.Header()[HeaderRequestID] = []string{id}
	return id
}

// validRequestID allows visible ASCII: what cannot break a line of a log.
func validRequestID(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return id != "" && len(id) <= requestIDBytesMax
}
