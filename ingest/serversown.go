package ingest

import (
	"bytes"
	"net/http"
	"strconv"
)

// What net/http writes by itself where a request does not come as far as a handler: a status
// line, these two headers, and a line of text, in one write. An answer of a handler always
// has a Date among its headers, so it is never taken for one.
const (
	serversOwnHeaders = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	// serversOwnBytesMax is more than any of them has. Looking at longer writes would be for nothing.
	serversOwnBytesMax = 512
)

// serversOwn says whether a write is an answer of net/http's own, and what it says in the
// terms of the contract. All of them are the caller's fault, so that they are 4xx there, also
// where net/http says 501 (a Transfer-Encoding it does not know) or 505.
func serversOwn(b []byte) (p problem, own bool) {
	// The first digit of the status ends it for nearly all.
	const at, end = len("HTTP/1.1 "), len("HTTP/1.1 400")
	if len(b) < end || b[at] < '4' || len(b) > serversOwnBytesMax || !bytes.HasPrefix(b, []byte("HTTP/1.")) {
		return problem{}, false
	}
	status, err := strconv.Atoi(string(b[at:end]))
	line := bytes.IndexByte(b, '\r')
	if err != nil || line < 0 {
		return problem{}, false
	}
	if status == http.StatusExpectationFailed { // has no text, and no handler says it
		return problem{outcome: outcomeExpectation}, true
	}
	text, own := bytes.CutPrefix(b[line:], []byte(serversOwnHeaders))
	switch {
	case !own:
		return problem{}, false
	case status == http.StatusRequestHeaderFieldsTooLarge:
		return problem{outcome: outcomeHeaderTooLarge}, true
	}
	p.outcome = outcomeMalformed
	if _, why, given := bytes.Cut(text, []byte(": ")); given {
		p.msg = "the request is not valid HTTP/1.1: " + string(why)
	} else if status == http.StatusNotImplemented {
		p.msg = "the request is not valid HTTP/1.1: Transfer-Encoding may only be chunked, once"
	}
	return p, true
}

// response is a problem as a whole HTTP answer, for where there is no ResponseWriter. The connection
// is closed behind it.
func (p problem) response() []byte {
	s := p.outcome.spec()
	body := p.append(make([]byte, 0, 256))
	out := append(make([]byte, 0, 512), "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(s.status), 10)
	out = append(append(out, ' '), http.StatusText(s.status)...)
	out = append(out, "\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"...)
	if s.retryAfter > 0 {
		out = append(out, "Retry-After: "...)
		out = append(strconv.AppendInt(out, int64(s.retryAfter), 10), "\r\n"...)
	}
	out = append(out, "Content-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	return append(append(out, "\r\n\r\n"...), body...)
}
