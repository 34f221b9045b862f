package fastpath

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// answer is the http.ResponseWriter of a connection. It keeps all until it is appended.
type answer struct {
	header http.Header
	status int
	body   []byte
}

func (a *answer) reset() {
	if len(a.header) > 0 {
		clear(a.header)
	}
	a.status = 0
	if a.body = a.body[:0]; cap(a.body) > answerBytesKept {
		a.body = nil
	}
}

func (a *answer) Header() http.Header { return a.header }

// WriteHeader sets the status; the first counts. Informational ones are not sent.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.body = append(a.body, b...)
	return len(b), nil
}

// last says whether the handler wants the connection closed.
func (a *answer) last() bool {
	given := a.header["Connection"]
	return len(given) > 0 && strings.EqualFold(given[0], "close")
}

// append appends the answer as it is sent.
func (a *answer) append(dst []byte, dates *dates, now time.Time, last bool) []byte {
	a.WriteHeader(http.StatusOK)
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(a.status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(a.status)...)
	dst = append(dst, "\r\n"...)
	delete(a.header, "Connection") // these are said below
	delete(a.header, "Content-Length")
	delete(a.header, "Transfer-Encoding")
	bodiless := a.status == http.StatusNoContent || a.status == http.StatusNotModified
	if !bodiless && len(a.body) > 0 && a.header["Content-Type"] == nil {
		a.header.Set("Content-Type", http.DetectContentType(a.body))
	}
	dst = appendHeader(dst, a.header)
	if a.header["Date"] == nil {
		dst = append(append(append(dst, "Date: "...), dates.at(now)...), "\r\n"...)
	}
	if last {
		dst = append(dst, "Connection: close\r\n"...)
	}
	if bodiless {
		return append(dst, "\r\n"...)
	}
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(a.body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, a.body...)
}

// appendHeader appends the fields. Most answers have but one, which needs no order.
func appendHeader(dst []byte, header http.Header) []byte {
	if values := header["Content-Type"]; len(header) == 1 && len(values) == 1 && !strings.ContainsAny(values[0], "\r\n") {
		dst = append(append(dst, "Content-Type: "...), values[0]...)
		return append(dst, "\r\n"...)
	}
	buf := bytes.NewBuffer(dst)
	_ = header.Write(buf) // a buffer takes everything
	return buf.Bytes()
}

// dates makes the Date of answers, once a second.
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
