package fastpath

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
)

const (
	// headBytesMax bounds the head of a plain request, and a single read.
	headBytesMax = 4 << 10
	// unreadBytesMax bounds how much of a body that the handler left unread is read to keep the connection; net/http has the
	// same limit.
	unreadBytesMax = 256 << 10
	// lineEndsMax is how many bytes of empty lines may precede a request that is not the first.
	lineEndsMax = 4
	// responseBytesKept is the largest response buffer that is reused.
	responseBytesKept = 64 << 10
)

// The states of a conn.
const (
	stateIdle int32 = iota // waiting for a request
	stateActive
	stateClosed // by Shutdown or Close
)

// conn is a connection, and everything that its requests use in turn.
type conn struct {
	net.Conn
	s     *Server
	state atomic.Int32

	buf  []byte
	in   []byte // part of buf: read, and not yet consumed
	head head

	fresh    http.Request // the template of all requests
	request  *http.Request
	url      url.URL
	route    *chi.Context
	ctx      requestContext
	body     body
	response response
	out      []byte
	served   bool // at least one request
	empty    int  // bytes of empty lines since the last request
	given    bool // handed to net/http

	arrived    time.Time // of the current request
	answered   time.Time // of the previous response
	readUntil  time.Time // the deadlines in force
	writeUntil time.Time
}

func newConn(s *Server, accepted net.Conn) *conn {
	c := &conn{
		Conn: accepted, s: s, buf: make([]byte, headBytesMax), route: chi.NewRouteContext(),
		head: head{header: make(http.Header)}, response: response{header: make(http.Header)},
	}
	c.ctx.c, c.body.c = c, c
	c.request = (&http.Request{
		Method: http.MethodPost, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		RequestURI: s.url.Path, RemoteAddr: accepted.RemoteAddr().String(),
	}).WithContext(&c.ctx)
	c.fresh = *c.request
	return c
}

// run serves the connection until it ends or is handed to net/http.
func (c *conn) run() {
	defer c.s.leave(c)
	defer c.finish()
	c.setReadDeadline(time.Now().Add(c.s.rest.ReadHeaderTimeout))
	for c.wait() {
		if c.between(); len(c.in) == 0 {
			continue
		}
		if !c.plain() {
			c.giveUp()
			return
		}
		if !c.serve() {
			return
		}
	}
}

// finish closes the connection, unless it was handed to net/http.
func (c *conn) finish() {
	cause := recover()
	if c.given {
		return
	}
	_ = c.Close()
	c.ctx.end()
	//nolint:errorlint // net/http compares it so
	if cause != nil && cause != http.ErrAbortHandler { // the handler recovers its own panics, so this one is in this package
		c.s.log.Error("panic on a connection", "panic", cause, "stack", string(debug.Stack()))
	}
}

// wait waits for the first bytes of the next request.
func (c *conn) wait() bool {
	if len(c.in) == 0 {
		c.state.Store(stateIdle)
		if c.s.closing.Load() {
			return false
		}
		if c.served {
			c.readyToWait()
		}
		n, err := c.Conn.Read(c.buf)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			return false // the client disconnected, or sent nothing in time
		}
		if !c.state.CompareAndSwap(stateIdle, stateActive) {
			return false
		}
		c.in = c.buf[:n]
	}
	c.arrived = time.Now()
	return true
}

// between skips the line ends that old clients send after the body of a POST, as many as net/http tolerates.
func (c *conn) between() {
	if !c.served {
		return
	}
	for ; c.empty < lineEndsMax && len(c.in) > 0 && (c.in[0] == '\r' || c.in[0] == '\n'); c.empty++ {
		c.in = c.in[1:]
	}
}

// plain reports whether the bytes read start with the complete head of a plain request, and sets up the request from it.
func (c *conn) plain() bool {
	end := bytes.Index(c.in, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	end += len("\r\n\r\n")
	// A single string for the whole head: the header's strings are substrings of it.
	if !c.head.parse(string(c.in[:end]), c.s.lines) {
		return false
	}
	c.in = c.in[end:]
	return true
}

// giveUp hands the connection to net/http.
func (c *conn) giveUp() {
	c.given = true
	_ = c.SetDeadline(time.Time{}) // fails only if reading will
	c.s.given.give(&given{Conn: c.Conn, read: c.in})
}

// serve answers the request whose head has been read, and reports whether the connection can serve another.
func (c *conn) serve() bool {
	c.readyToWrite()
	c.served, c.empty = true, 0
	c.route.Reset()
	c.url = c.s.url
	c.body.left, c.body.failed = c.head.length, false
	r := c.request
	*r = c.fresh
	if c.head.slashed {
		c.url.Path += "/"
		r.RequestURI = c.url.Path
	}
	r.URL, r.Header, r.Host = &c.url, c.head.header, c.head.host
	r.Body, r.ContentLength = &c.body, c.head.length
	c.response.reset()

	c.s.rest.Handler.ServeHTTP(&c.response, r)

	c.answered = time.Now()
	whole := c.body.skip()
	c.ctx.end() // after the whole body has been read
	last := !whole || c.response.last() || c.s.closing.Load()
	c.out = c.response.append(c.out[:0], &c.s.dates, c.answered, last)
	c.head.forget()
	if _, err := c.Conn.Write(c.out); err != nil {
		return false
	}
	if cap(c.out) > responseBytesKept {
		c.out = nil
	}
	if last && (len(c.in) > 0 || c.body.left > 0) {
		Linger(c.Conn)
	}
	return !last
}

// readyToWait sets the deadline for the idle time after a request, unless the previous deadline is close enough.
func (c *conn) readyToWait() {
	until := c.answered.Add(c.s.rest.IdleTimeout)
	if beyond := c.readUntil.Sub(until); beyond < c.s.slack || beyond > 3*c.s.slack {
		c.setReadDeadline(until.Add(2 * c.s.slack))
	}
}

// readyToWrite sets the deadline for writing the response, unless the previous deadline is close enough.
func (c *conn) readyToWrite() {
	if until := c.arrived.Add(c.s.rest.WriteTimeout); c.writeUntil.Before(until) {
		c.writeUntil = until.Add(c.s.slack)
		_ = c.SetWriteDeadline(c.writeUntil) // fails only if writing will
	}
}

func (c *conn) setReadDeadline(t time.Time) {
	c.readUntil = t
	_ = c.SetReadDeadline(t) // fails only if reading will
}

// closeIdle closes the connection if it is waiting for a request.
func (c *conn) closeIdle() {
	if c.state.CompareAndSwap(stateIdle, stateClosed) {
		_ = c.Close()
	}
}
