package ingest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/config"
)

// checkMediaType takes application/json, in UTF-8 and not compressed.
func checkMediaType(h http.Header) problem {
	if rule := api.MediaTypeRule(h); rule != "" {
		return problem{outcome: outcomeMediaType, msg: rule}
	}
	return problem{}
}

// first is h.Get for a key that is in canonical form.
func first(h http.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// read reads the body into r.body. The buffer grows with what really comes, not
// with what Content-Length promises, and out of the shared budget.
func (r *request) read(in *http.Request, bytesMax int) problem {
	if in.ContentLength > int64(bytesMax) {
		return tooLarge(bytesMax)
	}
	for {
		if len(r.body) == cap(r.body) {
			if !r.grow(bytesMax) {
				return problem{outcome: outcomeOverloaded, msg: "too many large bodies at one time; nothing was written"}
			}
		}
		n, err := in.Body.Read(r.body[len(r.body):cap(r.body)])
		r.body = r.body[:len(r.body)+n]
		if len(r.body) > bytesMax {
			return tooLarge(bytesMax)
		}
		switch {
		case errors.Is(err, io.EOF):
			return problem{}
		case err != nil:
			return unreadable(err)
		}
	}
}

// grow doubles the buffer, up to one byte more than a body may have.
func (r *request) grow(bytesMax int) bool {
	size := min(2*cap(r.body), bytesMax+1)
	more := int64(size - cap(r.body))
	if !r.budget.take(more) {
		return false
	}
	r.reserved += more
	grown := make([]byte, len(r.body), size)
	copy(grown, r.body)
	r.body = grown
	return true
}

// upload is a body that is read in parts, between which its request does other things.
type upload struct {
	io.Reader
	s *Service
}

func (u upload) Read(p []byte) (int, error) {
	u.s.uploading.Add(1)
	defer u.s.uploading.Add(-1)
	return u.Reader.Read(p)
}

func tooLarge(bytesMax int) problem {
	return problem{outcome: outcomeTooLarge, msg: fmt.Sprintf("the body is larger than %s", config.ByteSize(bytesMax))}
}

func unreadable(err error) problem {
	msg := "the body could not be read to its end"
	if errors.Is(err, os.ErrDeadlineExceeded) {
		msg = "the body did not come in time"
	}
	return problem{outcome: outcomeBodyUnread, msg: msg}
}
