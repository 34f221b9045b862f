package compat

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sendhouse/sendhouse/ingest/permission"
)

const (
	// systemSender is how a message of the system account shows its sender, and noSender how WuKongIM v2 does. Inside a JSON
	// string the quotes would be escaped, so neither can be a part of one.
	systemSender = `"from_uid":"` + permission.SystemUID + `"`
	noSender     = `"from_uid":""`

	shapedBytesKept = 4 << 10 // larger buffers go to the garbage collector
)

// answer is the http.ResponseWriter of a request. It adds the shapes of WuKongIM's answers to the API's. The answer to a send,
// and an error, arrive in one Write; anything else in as many as it takes.
type answer struct {
	http.ResponseWriter
	isSend bool
	isJSON bool
	status int // 0: the header has not been written

	shaped []byte
	held   int // the last write ended in so many bytes of systemSender, which have not been passed on
}

// Unwrap gives http.ResponseController access to the underlying writer.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK { // not an informational one
		a.status = status
		a.isJSON = strings.HasPrefix(a.Header().Get("Content-Type"), "application/json")
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	var err error
	switch {
	case !a.isJSON:
		_, err = a.ResponseWriter.Write(b)
	case a.status >= http.StatusBadRequest:
		a.shaped = appendError(a.shaped[:0], b)
		_, err = a.ResponseWriter.Write(a.shaped)
	case a.isSend:
		a.shaped = appendSent(a.shaped[:0], b)
		_, err = a.ResponseWriter.Write(a.shaped)
	default:
		err = a.writeMessages(b)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// end completes the answer and makes a ready for another request.
func (a *answer) end() {
	if a.held > 0 {
		_, _ = a.ResponseWriter.Write([]byte(systemSender[:a.held])) // a disconnected caller repeats the request
	}
	shaped := a.shaped
	if cap(shaped) > shapedBytesKept {
		shaped = nil
	}
	*a = answer{shaped: shaped}
}

// appendSent appends the answer to a stored send: to the fields of body, which stay where they are, it adds what v2's callers
// read (status, and the fields again in data) and what v3's do (reason).
func appendSent(dst, body []byte) []byte {
	fields, ok := inner(body)
	if !ok {
		return append(dst, body...)
	}
	dst = append(dst, `{"status":200,"reason":1,`...)
	dst = append(dst, fields...)
	dst = append(dst, `,"data":{`...)
	dst = append(dst, fields...)
	return append(dst, "}}\n"...)
}

// appendError appends an error with its msg as error too.
func appendError(dst, body []byte) []byte {
	var problem struct {
		Msg json.RawMessage `json:"msg"`
	}
	fields, ok := inner(body)
	if !ok || json.Unmarshal(body, &problem) != nil || problem.Msg == nil {
		return append(dst, body...)
	}
	dst = append(dst, '{')
	dst = append(dst, fields...)
	dst = append(dst, `,"error":`...)
	dst = append(dst, problem.Msg...)
	return append(dst, "}\n"...)
}

// inner returns what is between the braces of an object.
func inner(object []byte) ([]byte, bool) {
	object = bytes.TrimSpace(object)
	if len(object) <= len("{}") || object[0] != '{' || object[len(object)-1] != '}' {
		return nil, false
	}
	return object[1 : len(object)-1], true
}

// writeMessages passes b on with noSender for each systemSender. One that continues in the next write is held back.
func (a *answer) writeMessages(b []byte) error {
	if a.held > 0 {
		rest := systemSender[a.held:]
		switch {
		case bytes.HasPrefix(b, []byte(rest)):
			b = b[len(rest):]
			if err := a.pass([]byte(noSender)); err != nil {
				return err
			}
		case strings.HasPrefix(rest, string(b)):
			a.held += len(b)
			return nil
		default:
			if err := a.pass([]byte(systemSender[:a.held])); err != nil {
				return err
			}
		}
		a.held = 0
	}
	for {
		before, after, found := bytes.Cut(b, []byte(systemSender))
		if !found {
			break
		}
		if err := a.pass(before); err != nil {
			return err
		}
		if err := a.pass([]byte(noSender)); err != nil {
			return err
		}
		b = after
	}
	for n := min(len(b), len(systemSender)-1); n > 0; n-- {
		if bytes.HasSuffix(b, []byte(systemSender[:n])) {
			a.held = n
			break
		}
	}
	return a.pass(b[:len(b)-a.held])
}

func (a *answer) pass(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := a.ResponseWriter.Write(b)
	return err
}
