package api

import (
	"mime"
	"net/http"
	"strings"

	"github.com/nats-io/nuid"
)

// MediaTypeRule returns what is wrong with the headers of a request whose body must be application/json, in UTF-8 and not compressed; it is
// empty if nothing is.
func MediaTypeRule(h http.Header) string {
	contentType, encoding := first(h, "Content-Type"), first(h, "Content-Encoding")
	switch {
	case contentType != "application/json" && !isJSON(contentType):
		return "Content-Type must be application/json (charset utf-8, if any)"
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return "Content-Encoding is not taken: send the body as it is"
	default:
		return ""
	}
}

func isJSON(contentType string) bool {
	mediaType, params, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "application/json" && IsUTF8(params)
}

// IsUTF8 reports whether the parameters of a media type name UTF-8, or no charset.
func IsUTF8(params map[string]string) bool {
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
}

// first is h.Get for a key that is in canonical form.
func first(h http.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

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

// RequestID is the name of the request that w answers; if it has none yet, one is made. Call it before the header is written.
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
