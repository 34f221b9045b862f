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
	// turningAwayMin, turningAwayMax and, between the two, turningAwayShare as a divisor of the limit are how many connections above the limit are
	// told so at one time; more are just closed.
	turningAwayMin   = 8
	turningAwayMax   = 256
	turningAwayShare = 4
	// turnAwayTimeout is how long such a client may take to begin its request.
	turnAwayTimeout = time.Second
	// plainAnswerTimeout is how long it may take to tell a client that it should speak TLS.
	plainAnswerTimeout = 500 * time.Millisecond
)

// Config has the limits of a Listener.
type Config struct {
	ConnectionsMax   int
	HandshakeTimeout time.Duration
	TLS              *tls.Config // nil: connections are in plain HTTP
}

// Listener accepts connections up to a limit, and makes each a conn.
type Listener struct {
	net.Listener
	Config
	refused          func(outcome.Outcome) // counts what was answered without a handler
	handshakesFailed prometheus.Counter
	log              *slog.Logger
	connections      atomic.Int64

	turning  chan struct{} // a token for each connection that is being turned away
	lingerer *fastpath.Lingerer
	ending   sync.WaitGroup
}

// New makes a Listener and registers its metric. Refused is called for each response that was written without a handler.
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

// Open is how many connections are open.
func (l *Listener) Open() int64 { return l.connections.Load() }

// Hurry cuts short the lingering of connections, because the service stops.
func (l *Listener) Hurry() { l.lingerer.Hurry() }

// Listen begins to listen.
func (l *Listener) Listen(ctx context.Context, addr string) (err error) {
	l.Listener, err = new(net.ListenConfig).Listen(ctx, "tcp", addr)
	return err
}

// Accept gives the next connection that there is room for. The others are turned away on the way.
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

// turnAway tells a client that there are too many, as long as there are few of those.
func (l *Listener) turnAway(c net.Conn) {
	l.refused(outcome.Overloaded)
	over := func() {
		_ = c.Close() // nobody is left to be told
		l.connections.Add(-1)
	}
	select {
	case l.turning <- struct{}{}:
	default:
		over()
		return
	}
	l.ending.Go(func() { // ends with its deadlines
		defer func() { <-l.turning }()
		defer over()
		if l.TLS != nil {
			return // a handshake is more than such a client may cost
		}
		// Clients take an answer that comes before their request for a broken server.
		_ = c.SetDeadline(time.Now().Add(turnAwayTimeout))
		if n, _ := c.Read(make([]byte, 512)); n > 0 {
			_, _ = c.Write(outcome.Problem{Outcome: outcome.Overloaded, Msg: "too many connections; nothing was written"}.Response())
			fastpath.Linger(c)
		}
	})
}

// Wait waits for those that are being turned away. The listener is closed before.
func (l *Listener) Wait() { l.ending.Wait() }

// conn is a connection whose every answer has the error shape, also where net/http answers
// by itself.
type conn struct {
	net.Conn
	listener *Listener
	silent   atomic.Bool // all has been said
	closed   atomic.Bool
}

// Write passes on what net/http writes, but for its own plain-text answers.
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

// Read is at the end once all has been said.
func (c *conn) Read(b []byte) (int, error) {
	if c.silent.Load() {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

// CloseWrite is how net/http and the fast path say that they have said all, when the client may still be sending. It reads that away, so that
// the client gets to read the answer.
func (c *conn) CloseWrite() error {
	if c.silent.Swap(true) {
		return nil
	}
	return c.listener.lingerer.Linger(c.Conn)
}

// Close closes it; more than once does no harm.
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

// ConnectionState is where net/http asks what a connection is that is not its own kind of TLS,
// in the connection's goroutine and before it reads. So it is the place to shake hands under a
// time limit of its own. Where that fails, every later read says so.
func (c *tlsConn) ConnectionState() tls.ConnectionState {
	l := c.listener
	ctx, cancel := context.WithTimeout(context.Background(), l.HandshakeTimeout)
	err := c.tls.HandshakeContext(ctx)
	cancel()
	if err == nil {
		return c.tls.ConnectionState()
	}
	l.handshakesFailed.Inc()
	l.log.Debug("a TLS handshake failed", "client", c.RemoteAddr().String(), "error", err)
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
		answerPlain(plain.Conn)
	}
	return tls.ConnectionState{}
}

// looksLikeHTTP says whether the first bytes of a connection are those of a request in plain text.
func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH", "DELET":
		return true
	default:
		return false
	}
}

// answerPlain tells a client that speaks HTTP to speak HTTPS.
func answerPlain(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(plainAnswerTimeout))
	p := outcome.Problem{Outcome: outcome.Malformed, Msg: "this is an HTTPS address: send the request with TLS"}
	if _, err := c.Write(p.Response()); err == nil {
		fastpath.Linger(c)
	}
}

// What net/http writes by itself where a request does not come as far as a handler: a status
// line, these two headers, and a line of text, in one write. An answer of a handler always
// has a Date among its headers, so it is never taken for one.
const (
	serverReplyHeaders = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	// serverReplyBytesMax is more than any of them has. Looking at longer writes would be for nothing.
	serverReplyBytesMax = 512
)

// parseServerReply says whether a write is an answer of net/http's own, and what it says in the
// terms of the contract. All of them are the caller's fault, so that they are 4xx there, also
// where net/http says 501 (a Transfer-Encoding it does not know) or 505.
func parseServerReply(b []byte) (p outcome.Problem, own bool) {
	// The first digit of the status ends it for nearly all.
	const at, end = len("HTTP/1.1 "), len("HTTP/1.1 400")
	if len(b) < end || b[at] < '4' || len(b) > serverReplyBytesMax || !bytes.HasPrefix(b, []byte("HTTP/1.")) {
		return outcome.Problem{}, false
	}
	status, err := strconv.Atoi(string(b[at:end]))
	line := bytes.IndexByte(b, '\r')
	if err != nil || line < 0 {
		return outcome.Problem{}, false
	}
	if status == http.StatusExpectationFailed { // has no text, and no handler says it
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
