// Package listener accepts the connections of the HTTP API, a limited number at a time, over TLS if configured.
//
// Every response on a connection has the API's error shape, including those that net/http writes by itself before a request reaches a
// handler. A connection above the limit receives 503 and is closed. A TLS handshake has its own time limit. A client that is still sending
// when its response is complete can finish reading that response: its remaining bytes are read and discarded, up to the limits of
// fastpath.Lingerer.
package listener

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/ingest/fastpath"
	"github.com/sendhouse/sendhouse/ingest/outcome"
)

const (
	// The number of connections above the limit that receive a 503 at a time is the limit divided by turningAwayShare, but at
	// least turningAwayMin and at most turningAwayMax; further ones are closed without a response.
	turningAwayMin   = 8
	turningAwayMax   = 256
	turningAwayShare = 4
	// turnAwayTimeout is how long such a client may take to start its request.
	turnAwayTimeout = time.Second
	// plainAnswerTimeout bounds the response to a client that should use TLS.
	plainAnswerTimeout = 500 * time.Millisecond
)

// Config has the limits of a Listener.
type Config struct {
	ConnectionsMax   int
	HandshakeTimeout time.Duration
	TLS              *tls.Config // nil: plain HTTP
}

// Listener accepts connections up to a limit, and wraps each in a conn.
type Listener struct {
	net.Listener
	Config
	refused          func(outcome.Outcome) // counts responses written without a handler
	handshakesFailed prometheus.Counter
	log              *slog.Logger
	connections      atomic.Int64

	turning  chan struct{} // one token for each connection being turned away
	lingerer *fastpath.Lingerer
	ending   sync.WaitGroup
}

// New makes a Listener and registers its metric. refused is called for each response that was written without a handler.
func New(cfg Config, refused func(outcome.Outcome), log *slog.Logger, reg prometheus.Registerer) (*Listener, error) {
	l := &Listener{
		Config: cfg, refused: refused, log: log,
		handshakesFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sendhouse_ingest_tls_handshakes_failed_total", Help: "TLS handshakes that failed, or did not end in time.",
		}),
		turning:  make(chan struct{}, max(turningAwayMin, min(turningAwayMax, cfg.ConnectionsMax/turningAwayShare))),
		lingerer: fastpath.NewLingerer(),
	}
	return l, reg.Register(l.handshakesFailed)
}

// Open returns the number of open connections.
func (l *Listener) Open() int64 { return l.connections.Load() }

// Hurry shortens the lingering of connections, because the service is stopping.
func (l *Listener) Hurry() { l.lingerer.Hurry() }

// Listen starts listening.
func (l *Listener) Listen(ctx context.Context, addr string) (err error) {
	l.Listener, err = new(net.ListenConfig).Listen(ctx, "tcp", addr)
	return err
}

// Accept returns the next connection below the limit. Connections above the limit are turned away.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.connections.Add(1) > int64(l.ConnectionsMax) {
			l.turnAway(accepted)
			continue
		}
		if l.TLS == nil {
			return &conn{Conn: accepted, listener: l}, nil
		}
		secured := tls.Server(accepted, l.TLS)
		return &tlsConn{conn: conn{Conn: secured, listener: l}, tls: secured}, nil
	}
}

// turnAway tells a client that there are too many connections, for a limited number of clients at a time.
func (l *Listener) turnAway(c net.Conn) {
	l.refused(outcome.Overloaded)
	over := func() {
		_ = c.Close() // too many are being turned away already
		l.connections.Add(-1)
	}
	select {
	case l.turning <- struct{}{}:
	default:
		over()
		return
	}
	l.ending.Go(func() { // bounded by its deadlines
		defer func() { <-l.turning }()
		defer over()
		if l.TLS != nil {
			return // a handshake costs too much for a refused client
		}
		// Clients treat a response that arrives before their request as a protocol error, so wait for the request.
		_ = c.SetDeadline(time.Now().Add(turnAwayTimeout))
		if n, _ := c.Read(make([]byte, 512)); n > 0 {
			_, _ = c.Write(outcome.Problem{Outcome: outcome.Overloaded, Msg: "too many connections; nothing was written"}.Response())
			fastpath.Linger(c)
		}
	})
}

// Wait waits for the connections that are being turned away. The listener must be closed.
func (l *Listener) Wait() { l.ending.Wait() }

// conn is a connection whose every response has the API's error shape, including those that net/http writes by itself.
type conn struct {
	net.Conn
	listener *Listener
	silent   atomic.Bool // the response is complete; reads return EOF
	closed   atomic.Bool
}

// Write passes on what net/http writes, except for net/http's own plain-text responses.
func (c *conn) Write(b []byte) (int, error) {
	p, own := parseServerReply(b)
	if !own {
		return c.Conn.Write(b)
	}
	c.listener.refused(p.Outcome)
	if _, err := c.Conn.Write(p.Response()); err != nil {
		return 0, err
	}
	_ = c.CloseWrite() // the caller closes it next
	return len(b), nil
}

// Read returns io.EOF once the response is complete.
func (c *conn) Read(b []byte) (int, error) {
	if c.silent.Load() {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

// CloseWrite is called by net/http and the fast path when the response is complete and the client may still be sending. It
// discards what the client sends, so that the client can read the response.
func (c *conn) CloseWrite() error {
	if c.silent.Swap(true) {
		return nil
	}
	return c.listener.lingerer.Linger(c.Conn)
}

// Close closes the connection; it may be called more than once.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	c.listener.connections.Add(-1)
	return c.Conn.Close()
}

// tlsConn is a conn over TLS.
type tlsConn struct {
	conn
	tls *tls.Conn
}

// ConnectionState is called by net/http, in the connection's goroutine and before the first read, on connections that are
// not its own TLS type. So the handshake is done here, with its own time limit. If it fails, every later read returns the
// error.
func (c *tlsConn) ConnectionState() tls.ConnectionState {
	l := c.listener
	ctx, cancel := context.WithTimeout(context.Background(), l.HandshakeTimeout)
	err := c.tls.HandshakeContext(ctx)
	cancel()
	if err == nil {
		return c.tls.ConnectionState()
	}
	l.handshakesFailed.Inc()
	l.log.Debug("TLS handshake failed", "client", c.RemoteAddr().String(), "error", err)
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
		answerPlain(plain.Conn)
	}
	return tls.ConnectionState{}
}

// looksLikeHTTP reports whether the first bytes of a connection are those of a plain-text request.
func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH", "DELET":
		return true
	default:
		return false
	}
}

// answerPlain tells a client that sent plain HTTP to use HTTPS.
func answerPlain(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(plainAnswerTimeout))
	p := outcome.Problem{Outcome: outcome.Malformed, Msg: "this is an HTTPS address: send the request with TLS"}
	if _, err := c.Write(p.Response()); err == nil {
		fastpath.Linger(c)
	}
}

// What net/http writes by itself if a request does not reach a handler: a status line, these two headers, and a line of
// text, in one write. A handler's response always has a Date header, so it cannot be mistaken for one of these.
const (
	serverReplyHeaders = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	// serverReplyBytesMax is longer than any of them, so longer writes are not examined.
	serverReplyBytesMax = 512
)

// parseServerReply reports whether a write is one of net/http's own responses, and returns the problem to send instead.
// All of them are the client's fault, so the problem is always 4xx, even if net/http uses 501 (an unknown
// Transfer-Encoding) or 505.
func parseServerReply(b []byte) (p outcome.Problem, own bool) {
	// For nearly all writes the first digit of the status rules it out.
	const at, end = len("HTTP/1.1 "), len("HTTP/1.1 400")
	if len(b) < end || b[at] < '4' || len(b) > serverReplyBytesMax || !bytes.HasPrefix(b, []byte("HTTP/1.")) {
		return outcome.Problem{}, false
	}
	status, err := strconv.Atoi(string(b[at:end]))
	line := bytes.IndexByte(b, '\r')
	if err != nil || line < 0 {
		return outcome.Problem{}, false
	}
	if status == http.StatusExpectationFailed { // has no text, and no handler uses it
		return outcome.Problem{Outcome: outcome.Expectation}, true
	}
	text, own := bytes.CutPrefix(b[line:], []byte(serverReplyHeaders))
	switch {
	case !own:
		return outcome.Problem{}, false
	case status == http.StatusRequestHeaderFieldsTooLarge:
		return outcome.Problem{Outcome: outcome.HeaderTooLarge}, true
	}
	p.Outcome = outcome.Malformed
	if _, why, given := bytes.Cut(text, []byte(": ")); given {
		p.Msg = "the request is not valid HTTP/1.1: " + string(why)
	} else if status == http.StatusNotImplemented {
		p.Msg = "the request is not valid HTTP/1.1: Transfer-Encoding may only be chunked, once"
	}
	return p, true
}
