package request

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/config"
)

// checkMediaType accepts application/json, in UTF-8 and not compressed.
func checkMediaType(h http.Header) outcome.Problem {
	if rule := api.MediaTypeRule(h); rule != "" {
		return outcome.Problem{Outcome: outcome.MediaType, Msg: rule}
	}
	return outcome.Problem{}
}

// Receive reads a body into req.
func (p *Pool) Receive(w http.ResponseWriter, r *http.Request, req *Request) outcome.Problem {
	if failed := checkMediaType(r.Header); !failed.OK() {
		return failed
	}
	p.Uploading.Add(1)
	failed := req.read(r, p.bodyBytesMax)
	p.Uploading.Add(-1)
	if !failed.OK() {
		// Keep-alive would require reading the rest of the body.
		w.Header().Set("Connection", "close")
		return failed
	}
	if rest := skipMark(req.body); len(rest) < len(req.body) {
		req.body = append(req.body[:0], rest...)
	}
	return outcome.Problem{}
}

// byteOrderMark is what some programs put before text in UTF-8. RFC 8259, section 8.1, lets a reader of JSON ignore it.
const byteOrderMark = "\ufeff"

// skipMark returns text without a byte order mark at its beginning.
func skipMark(text []byte) []byte {
	if len(text) >= len(byteOrderMark) && string(text[:len(byteOrderMark)]) == byteOrderMark {
		return text[len(byteOrderMark):]
	}
	return text
}

// read reads the body into r.body. The buffer grows with the bytes received, not with Content-Length, and its memory comes
// from the shared budget.
func (r *Request) read(in *http.Request, bytesMax int) outcome.Problem {
	if in.ContentLength > int64(bytesMax) {
		return TooLarge(bytesMax)
	}
	for {
		if len(r.body) == cap(r.body) {
			if !r.grow(bytesMax) {
				return outcome.Problem{Outcome: outcome.Overloaded, Msg: "too many large bodies at one time; nothing was written"}
			}
		}
		n, err := in.Body.Read(r.body[len(r.body):cap(r.body)])
		r.body = r.body[:len(r.body)+n]
		if len(r.body) > bytesMax {
			return TooLarge(bytesMax)
		}
		switch {
		case errors.Is(err, io.EOF):
			return outcome.Problem{}
		case err != nil:
			return unreadable(err)
		}
	}
}

// grow doubles the buffer, up to one byte more than the body limit.
func (r *Request) grow(bytesMax int) bool {
	size := min(2*cap(r.body), bytesMax+1)
	more := int64(size - cap(r.body))
	if !r.budget.Take(more) {
		return false
	}
	r.reserved += more
	grown := make([]byte, len(r.body), size)
	copy(grown, r.body)
	r.body = grown
	return true
}

// upload wraps a body that is read in parts, with other work between the reads.
func (p *Pool) upload(body io.Reader) io.Reader { return upload{body, p} }

type upload struct {
	io.Reader
	pool *Pool
}

func (u upload) Read(p []byte) (int, error) {
	u.pool.Uploading.Add(1)
	defer u.pool.Uploading.Add(-1)
	return u.Reader.Read(p)
}

// TooLarge returns the problem of a body larger than bytesMax.
func TooLarge(bytesMax int) outcome.Problem {
	return outcome.Problem{Outcome: outcome.TooLarge, Msg: fmt.Sprintf("the body is larger than %s", config.ByteSize(bytesMax))}
}

func unreadable(err error) outcome.Problem {
	msg := "the body could not be read to its end"
	if errors.Is(err, os.ErrDeadlineExceeded) {
		msg = "the body did not come in time"
	}
	return outcome.Problem{Outcome: outcome.BodyUnreadable, Msg: msg}
}
