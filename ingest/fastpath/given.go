package fastpath

import (
	"net"
	"sync"
)

// givenListener passes the connections that the fast path gives up to net/http.
type givenListener struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newGivenListener() *givenListener {
	return &givenListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give hands a connection to net/http, or closes it if net/http no longer accepts any.
func (l *givenListener) give(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close() // its request has not been answered
	}
}

func (l *givenListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is called by net/http, possibly more than once.
func (l *givenListener) Close() error {
	l.close()
	return nil
}

func (l *givenListener) close() { l.once.Do(func() { close(l.closed) }) }

func (l *givenListener) Addr() net.Addr { return l.addr }

// given is a connection of which a part has already been read.
type given struct {
	net.Conn
	read []byte
}

func (g *given) Read(b []byte) (int, error) {
	if len(g.read) == 0 {
		return g.Conn.Read(b)
	}
	n := copy(b, g.read)
	if g.read = g.read[n:]; len(g.read) == 0 {
		g.read = nil // releases the buffer
	}
	return n, nil
}

// CloseWrite lets net/http close the writing side.
func (g *given) CloseWrite() error { return CloseWrite(g.Conn) }
