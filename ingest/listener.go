package ingest

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/ingest/fastpath"
)

const (
	// turningAwayMax is how many connections above the limit are told so at one time; more are just closed.
	turningAwayMax = 256
	// turnAwayTimeout is how long such a client may take to begin its request.
	turnAwayTimeout = time.Second
)

// listener accepts connections, so many at one time and no more, and makes each a conn.
type listener struct {
	net.Listener
	service *Service
	tls     *tls.Config // nil: there is none

	turning chan struct{} // a token for each connection that is being turned away
	ending  sync.WaitGroup
}

func (s *Service) listen(ctx context.Context) (*listener, error) {
	inner, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.APIAddr.String())
	if err != nil {
		return nil, err
	}
	l := &listener{Listener: inner, service: s, turning: make(chan struct{}, turningAwayMax)}
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
	fastpath.Linger(c.Conn)
	return len(b), nil
}

// CloseWrite lets net/http say that it has said all.
func (c *conn) CloseWrite() error { return fastpath.CloseWrite(c.Conn) }

// Close closes it; more than once does no harm.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	c.listener.service.connections.Add(-1)
	return c.Conn.Close()
}
