package fastpath

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// response is the http.ResponseWriter of a connection. It buffers the response until append.
type response struct {
	header http.Header
	status int
	body   []byte
}

func (r *response) reset() {
	if len(r.header) > 0 {
		clear(r.header)
	}
	r.status = 0
	if r.body = r.body[:0]; cap(r.body) > responseBytesKept {
		r.body = nil
	}
}

func (r *response) Header() http.Header { return r.header }

// WriteHeader sets the status; only the first call counts. Informational statuses are not sent.
func (r *response) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
}

func (r *response) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	r.body = append(r.body, b...)
	return len(b), nil
}

// last reports whether the handler wants the connection closed.
func (r *response) last() bool {
	given := r.header["Connection"]
	return len(given) > 0 && strings.EqualFold(given[0], "close")
}

// append appends the response in wire format.
func (r *response) append(dst []byte, dates *dates, now time.Time, last bool) []byte {
	r.WriteHeader(http.StatusOK)
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(r.status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(r.status)...)
	dst = append(dst, "\r\n"...)
	delete(r.header, "Connection") // written below
	delete(r.header, "Content-Length")
	delete(r.header, "Transfer-Encoding")
	bodiless := r.status == http.StatusNoContent || r.status == http.StatusNotModified
	if !bodiless && len(r.body) > 0 && r.header["Content-Type"] == nil {
		r.header.Set("Content-Type", http.DetectContentType(r.body))
	}
	dst = appendHeader(dst, r.header)
	if r.header["Date"] == nil {
		dst = append(append(append(dst, "Date: "...), dates.at(now)...), "\r\n"...)
	}
	if last {
		dst = append(dst, "Connection: close\r\n"...)
	}
	if bodiless {
		return append(dst, "\r\n"...)
	}
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(r.body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, r.body...)
}

// appendHeader appends the header fields. Most responses have a single field, which needs no sorting.
func appendHeader(dst []byte, header http.Header) []byte {
	if values := header["Content-Type"]; len(header) == 1 && len(values) == 1 && !strings.ContainsAny(values[0], "\r\n") {
		dst = append(append(dst, "Content-Type: "...), values[0]...)
		return append(dst, "\r\n"...)
	}
	buf := bytes.NewBuffer(dst)
	_ = header.Write(buf) // writing to a buffer never fails
	return buf.Bytes()
}

// dates formats the Date of responses, once a second.
type dates struct{ last atomic.Pointer[date] }

type date struct {
	second int64
	text   string
}

func (d *dates) at(now time.Time) string {
	last := d.last.Load()
	if last == nil || last.second != now.Unix() {
		last = &date{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
		d.last.Store(last)
	}
	return last.text
}
