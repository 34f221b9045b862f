package api

import (
	"net/http"
	"strconv"
)

// Problem is an answer other than 200, in the one shape that all errors have:
//
//	{"status":400,"code":"invalid_request","msg":"payload is required","field":"payload","reason":9}
type Problem struct {
	// Status is the HTTP status.
	Status int
	// Code is for programs: lower case, words joined by _, never changed.
	Code string
	// Msg is for people: what is wrong, and what to do about it.
	Msg string
	// Field names the bad fields, separated by commas.
	Field string
	// Reason is WuKongIM's reason code; 0 means none.
	Reason int
	// RetryAfter is the seconds after which trying again can help; 0 means that it does not.
	RetryAfter int
}

// Append appends the JSON and a line feed.
func (p Problem) Append(body []byte) []byte {
	body = append(body, `{"status":`...)
	body = strconv.AppendInt(body, int64(p.Status), 10)
	body = append(body, `,"code":`...)
	body = AppendString(body, p.Code)
	body = append(body, `,"msg":`...)
	body = AppendString(body, p.Msg)
	body = append(body, `,"field":`...)
	body = AppendString(body, p.Field)
	body = append(body, `,"reason":`...)
	body = strconv.AppendInt(body, int64(p.Reason), 10)
	return append(body, "}\n"...)
}

// Write answers with the problem. The answer names the request: see [RequestID].
func (p Problem) Write(w http.ResponseWriter) {
	body := p.Append(make([]byte, 0, 256))
	RequestID(w)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a caller that has gone need not know
}
