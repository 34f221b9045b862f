package chdb

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// holdBackBytes is how much output waits for the statement to end before the first of it is sent. A statement that ends within it, well
	// or badly, gets the right status and its counts in the headers.
	holdBackBytes = 256 << 10
	// writeTimeout is how long a client may take to accept a piece of output.
	writeTimeout = time.Minute
	// exceptionTagBytes is the length of the random word that marks a real exception in the middle of output.
	exceptionTagBytes = 16
)

// responder sends a statement's output, or its exception.
type responder struct {
	w       http.ResponseWriter
	engine  *Engine
	id      string
	began   time.Time
	held    bytes.Buffer // Output before it is coded, while started is false.
	started bool         // The status and headers are sent.
	frames  *frameEncoder
	coder   io.WriteCloser // Content-Encoding.
	accept  string
	native  *nativeWriter
	tag     string
	counted stats
}

func newResponder(w http.ResponseWriter, e *Engine, id string) *responder {
	head := w.Header()
	head.Set("X-ClickHouse-Server-Display-Name", "sendhouse")
	if id != "" {
		head.Set("X-ClickHouse-Query-Id", id)
	}
	head.Set("X-ClickHouse-Timezone", e.timezone)
	return &responder{w: w, engine: e, id: id, began: time.Now()}
}

// begin says in what form the output is to go out. Nothing is sent yet.
func (a *responder) begin(r *http.Request, c call, format string) error {
	head := a.w.Header()
	head.Set("Content-Type", contentType(format))
	head.Set("X-ClickHouse-Format", format)
	if zone := c.request.settings.get("session_timezone"); zone != "" {
		head.Set("X-ClickHouse-Timezone", zone)
	}
	if c.compress {
		frames, err := newFrameEncoder(nil, c.request.settings.get("network_compression_method"))
		if err != nil {
			return err
		}
		a.frames = frames
	}
	if c.request.settings.get("enable_http_compression") != "0" {
		a.accept = r.Header.Get("Accept-Encoding")
	}
	if c.revision > 0 && strings.EqualFold(format, "Native") {
		location, err := time.LoadLocation(a.engine.timezone)
		if err != nil {
			location = time.UTC // It does not change the bytes.
		}
		a.native = &nativeWriter{to: plainWriter{a}, revision: c.revision, location: location}
	}
	return nil
}

// deliver is given the pieces of the output.
func (a *responder) deliver(piece io.Reader) error {
	if a.native != nil {
		return a.native.transcode(piece)
	}
	_, err := io.Copy(plainWriter{a}, piece)
	return err
}

// plainWriter takes output as the client is to see it after decoding. It hides the other methods of the responder.
type plainWriter struct{ a *responder }

func (p plainWriter) Write(text []byte) (int, error) {
	a := p.a
	if !a.started {
		if a.held.Len()+len(text) <= holdBackBytes {
			return a.held.Write(text)
		}
		if err := a.start(true); err != nil {
			return 0, err
		}
	}
	return len(text), a.send(text)
}

// start sends the status, the headers and what was held back. An answer without output is not coded: it would become output.
func (a *responder) start(output bool) error {
	a.started = true
	head := a.w.Header()
	var to io.Writer = wireWriter{a.w}
	if output {
		if coder, name := contentEncoder(a.accept, to); coder != nil {
			head.Set("Content-Encoding", name)
			head.Add("Vary", "Accept-Encoding")
			a.coder, to = coder, coder
		}
	}
	if a.frames != nil {
		a.frames.to = to
	}
	a.tag = newTag()
	head.Set("X-ClickHouse-Exception-Tag", a.tag)
	head.Set("X-ClickHouse-Summary", a.summary())
	a.w.WriteHeader(http.StatusOK)
	held := a.held.Bytes()
	a.held = bytes.Buffer{}
	return a.send(held)
}

// send codes output and puts it on the wire.
func (a *responder) send(text []byte) error {
	var to io.Writer = wireWriter{a.w}
	switch {
	case a.frames != nil:
		to = a.frames
	case a.coder != nil:
		to = a.coder
	}
	if _, err := to.Write(text); err != nil {
		return fmt.Errorf("send the output: %w", err)
	}
	return nil
}

// finish ends the output of a statement that went well.
func (a *responder) finish(counted stats) error {
	a.counted = counted
	if !a.started {
		if err := a.start(a.held.Len() > 0); err != nil {
			return err
		}
	}
	return a.flush(true)
}

// flush brings all that was sent to the client. With last, nothing may follow.
func (a *responder) flush(last bool) error {
	var problems []error
	if a.frames != nil {
		problems = append(problems, a.frames.Flush())
	}
	if flusher, ok := a.coder.(interface{ Flush() error }); ok && !last {
		problems = append(problems, flusher.Flush())
	}
	if a.coder != nil && last {
		problems = append(problems, a.coder.Close())
	}
	return errors.Join(problems...)
}

// fail tells the client of an error: with a status of its own if nothing was sent yet, else in the middle of the output, in a frame that no
// data can imitate, after which the connection is broken so that a client that knows nothing of such frames does not take the output for whole.
func (a *responder) fail(err error) {
	exception := exceptionFor(err)
	text := exception.Error() + " (version " + a.engine.version + ")\n"
	if a.started {
		_ = a.flush(false)
		_ = a.send([]byte(exceptionFrame(a.tag, text)))
		_ = a.flush(false)
		_ = http.NewResponseController(a.w).Flush()
		panic(http.ErrAbortHandler)
	}
	head := a.w.Header()
	head.Set("Content-Type", "text/plain; charset=UTF-8")
	head.Set("X-ClickHouse-Exception-Code", strconv.Itoa(exception.Code))
	if exception.Code == codeTooManyQueries {
		head.Set("Retry-After", "1")
	}
	a.w.WriteHeader(statusOf(exception))
	_, _ = io.WriteString(a.w, text)
}

// exceptionFrame is how a server tells of an error after output (src/Server/HTTP/WriteBufferFromHTTPServerResponse.cpp).
func exceptionFrame(tag, text string) string {
	return fmt.Sprintf("\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n", tag, text, len(text), tag)
}

func newTag() string {
	return rand.Text()[:exceptionTagBytes]
}

// summary is X-ClickHouse-Summary: what the statement read and wrote so far, all numbers in quotes.
func (a *responder) summary() string {
	return fmt.Sprintf(`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0",`+
		`"result_rows":"%d","result_bytes":"%d","elapsed_ns":"%d"}`, a.counted.ReadRows, a.counted.ReadBytes, a.counted.WrittenRows,
		a.counted.WrittenBytes, a.counted.ResultRows, a.held.Len(), time.Since(a.began).Nanoseconds())
}

// wireWriter bounds how long a client may take for each piece.
type wireWriter struct{ w http.ResponseWriter }

func (w wireWriter) Write(p []byte) (int, error) {
	_ = http.NewResponseController(w.w).SetWriteDeadline(time.Now().Add(writeTimeout)) // Not every writer can.
	return w.w.Write(p)
}

// deadlineOf sets the deadline of reading the request's body, if the server can.
func deadlineOf(w http.ResponseWriter) func(time.Time) {
	control := http.NewResponseController(w)
	return func(at time.Time) { _ = control.SetReadDeadline(at) }
}

// exceptionFor is err as ClickHouse would have said it.
func exceptionFor(err error) *Exception {
	var exception *Exception
	if errors.As(err, &exception) {
		return exception
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Exception{Code: codeQueryWasCancelled, Message: "Query was cancelled: " + err.Error() + ". (QUERY_WAS_CANCELLED)"}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &Exception{Code: codeUnexpectedEndOfFile, Message: "The body ends too early. (UNEXPECTED_END_OF_FILE)"}
	}
	return &Exception{Code: codeLogicalError, Message: err.Error() + ". (LOGICAL_ERROR)"}
}

func statusOf(exception *Exception) int {
	if status, ok := httpStatuses()[exception.Code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

func contentType(format string) string {
	switch lower := strings.ToLower(format); {
	case lower == "json", lower == "jsoncompact", lower == "jsonstrings", lower == "jsoncompactstrings", lower == "jsoncolumns":
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(lower, "json"), lower == "ndjson":
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(lower, "csvwithnames"):
		return "text/csv; charset=UTF-8; header=present"
	case lower == "csv":
		return "text/csv; charset=UTF-8; header=absent"
	case strings.HasPrefix(lower, "tsv"), strings.HasPrefix(lower, "tabseparated"):
		return "text/tab-separated-values; charset=UTF-8"
	case lower == "xml":
		return "application/xml; charset=UTF-8"
	case strings.HasPrefix(lower, "pretty"), lower == "vertical", lower == "values", lower == "tskv", lower == "markdown", lower == "null":
		return "text/plain; charset=UTF-8"
	}
	return "application/octet-stream"
}
