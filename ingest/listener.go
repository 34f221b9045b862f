package ingest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/ingest/fastpath"
)

const (
	// turningAwayMin, turningAwayMax and, between the two, turningAwayShare as a divisor of the limit are how many connections above the limit are
	// told so at one time; more are just closed.
	turningAwayMin   = 8
	turningAwayMax   = 256
	turningAwayShare = 4
	// turnAwayTimeout is how long such a client may take to begin its request.
	turnAwayTimeout = time.Second
)

// listener accepts connections, so many at one time and no more, and makes each a conn.
type listener struct {
	net.Listener
	service *Service
	tls     *tls.Config // nil: there is none

	turning  chan struct{} // a token for each connection that is being turned away
	lingerer *fastpath.Lingerer
	ending   sync.WaitGroup
}

func (s *Service) listen(ctx context.Context) (*listener, error) {
	inner, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.APIAddr.String())
	if err != nil {
		return nil, err
	}
	l := &listener{Listener: inner, service: s, turning: make(chan struct{}, max(turningAwayMin, min(turningAwayMax, s.cfg.ConnectionsMax/turningAwayShare))), lingerer: fastpath.NewLingerer()}
	if s.certificates != nil {
		l.tls = s.certificates.config()
	}
	return l, nil
}

// Accept gives the next connection that there is room for. The others are turned away on the way.
func (l *listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.service.connections.Add(1) > int64(l.service.cfg.ConnectionsMax) {
			l.turnAway(accepted)
			continue
		}
		if l.tls == nil {
			return &conn{Conn: accepted, listener: l}, nil
		}
		secured := tls.Server(accepted, l.tls)
		return &tlsConn{conn: conn{Conn: secured, listener: l}, tls: secured}, nil
	}
}

// turnAway tells a client that there are too many, as long as there are few of those.
func (l *listener) turnAway(c net.Conn) {
	l.service.metrics.requests[outcomeOverloaded].Inc()
	over := func() {
		_ = c.Close() // nobody is left to be told
		l.service.connections.Add(-1)
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
		if l.tls != nil {
			return // a handshake is more than such a client may cost
		}
		// Clients take an answer that comes before their request for a broken server.
		_ = c.SetDeadline(time.Now().Add(turnAwayTimeout))
		if n, _ := c.Read(make([]byte, 512)); n > 0 {
			_, _ = c.Write(problem{outcome: outcomeOverloaded, msg: "too many connections; nothing was written"}.response())
			fastpath.Linger(c)
		}
	})
}

// wait waits for those that are being turned away. The listener is closed before.
func (l *listener) wait() { l.ending.Wait() }

// conn is a connection whose every answer has the error shape, also where net/http answers
// by itself.
type conn struct {
	net.Conn
	listener *listener
	silent   atomic.Bool // all has been said
	closed   atomic.Bool
}

// Write passes on what net/http writes, but for its own plain-text answers.
func (c *conn) Write(b []byte) (int, error) {
	p, own := serversOwn(b)
	if !own {
		return c.Conn.Write(b)
	}
	c.listener.service.metrics.requests[p.outcome].Inc()
	if _, err := c.Conn.Write(p.response()); err != nil {
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
	c.listener.service.connections.Add(-1)
	return c.Conn.Close()
}
