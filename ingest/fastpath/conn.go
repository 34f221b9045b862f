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
	// headBytesMax is how long the head of a plain request may be, and what is read at one time.
	headBytesMax = 4 << 10
	// unreadBytesMax is how much of a body that the handler did not read is read to keep the connection; net/http has the same.
	unreadBytesMax = 256 << 10
	// lineEndsMax is how many bytes of empty lines may precede a request that is not the first.
	lineEndsMax = 4
	// responseBytesKept is how large an answer's buffer may be to be used for the next.
	responseBytesKept = 64 << 10
)

// The states of a conn.
const (
	stateIdle int32 = iota // waits for a request
	stateActive
	stateClosed // by somebody else
)

// conn is a connection, and everything that its requests use one after the other.
type conn struct {
	net.Conn
	s     *Server
	state atomic.Int32

	buf  []byte
	in   []byte // of buf: read, and not used yet
	head head

	fresh    http.Request // what all requests have in common
	request  *http.Request
	url      url.URL
	route    *chi.Context
	ctx      requestContext
	body     body
	response response
	out      []byte
	served   bool // a request, at least
	empty    int  // bytes of empty lines since
	given    bool // to net/http

	arrived    time.Time // the request
	answered   time.Time // the one before
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

// run serves the connection to its end, or until it is given to net/http.
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

// finish closes the connection, unless it was given to net/http: all has been said, or nothing can be.
func (c *conn) finish() {
	cause := recover()
	if c.given {
		return
	}
	_ = c.Close()
	c.ctx.end()
	//nolint:errorlint // net/http compares it so
	if cause != nil && cause != http.ErrAbortHandler { // the handler recovers its own, so this is one of ours
		c.s.log.Error("a connection panicked", "panic", cause, "stack", string(debug.Stack()))
	}
}

// wait waits until something of the next request is there.
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
			return false // it has gone, or said nothing in time
		}
		if !c.state.CompareAndSwap(stateIdle, stateActive) {
			return false
		}
		c.in = c.buf[:n]
	}
	c.arrived = time.Now()
	return true
}

// between drops what old clients send behind the body of a POST, of which net/http tolerates as much.
func (c *conn) between() {
	if !c.served {
		return
	}
	for ; c.empty < lineEndsMax && len(c.in) > 0 && (c.in[0] == '\r' || c.in[0] == '\n'); c.empty++ {
		c.in = c.in[1:]
	}
}

// plain says whether what has been read begins with the whole head of a plain request, and makes it the request.
func (c *conn) plain() bool {
	end := bytes.Index(c.in, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	end += len("\r\n\r\n")
	// One string for all: what the header holds is cut from it.
	if !c.head.parse(string(c.in[:end]), c.s.line) {
		return false
	}
	c.in = c.in[end:]
	return true
}

// giveUp gives the connection to net/http.
func (c *conn) giveUp() {
	c.given = true
	_ = c.SetDeadline(time.Time{}) // fails only where reading will
	c.s.given.give(&given{Conn: c.Conn, read: c.in})
}

// serve answers the request whose head has been read, and says whether the connection can have another.
func (c *conn) serve() bool {
	c.readyToWrite()
	c.served, c.empty = true, 0
	c.route.Reset()
	c.url = c.s.url
	c.body.left, c.body.failed = c.head.length, false
	r := c.request
	*r = c.fresh
	r.URL, r.Header, r.Host = &c.url, c.head.header, c.head.host
	r.Body, r.ContentLength = &c.body, c.head.length
	c.response.reset()

	c.s.rest.Handler.ServeHTTP(&c.response, r)

	c.answered = time.Now()
	whole := c.body.skip()
	c.ctx.end() // behind the last of the body
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

// readyToWait sets the deadline for the silence behind a request, unless that of one before will do.
func (c *conn) readyToWait() {
	until := c.answered.Add(c.s.rest.IdleTimeout)
	if beyond := c.readUntil.Sub(until); beyond < c.s.slack || beyond > 3*c.s.slack {
		c.setReadDeadline(until.Add(2 * c.s.slack))
	}
}

// readyToWrite sets the deadline for this request's answer, unless that of one before will do.
func (c *conn) readyToWrite() {
	if until := c.arrived.Add(c.s.rest.WriteTimeout); c.writeUntil.Before(until) {
		c.writeUntil = until.Add(c.s.slack)
		_ = c.SetWriteDeadline(c.writeUntil) // fails only where writing will
	}
}

func (c *conn) setReadDeadline(t time.Time) {
	c.readUntil = t
	_ = c.SetReadDeadline(t) // fails only where reading will
}

// closeIdle closes the connection if it waits for a request.
func (c *conn) closeIdle() {
	if c.state.CompareAndSwap(stateIdle, stateClosed) {
		_ = c.Close()
	}
}
