package fastpath

import (
	"net"
	"sync"
)

// givenListener is how net/http gets connections that the fast path gives up.
type givenListener struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newGivenListener() *givenListener {
	return &givenListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give gives a connection to net/http, or closes it where that accepts none any more.
func (l *givenListener) give(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close() // nothing has been answered on it
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

// Close is called by net/http; more than once does no harm.
func (l *givenListener) Close() error {
	l.close()
	return nil
}

func (l *givenListener) close() { l.once.Do(func() { close(l.closed) }) }

func (l *givenListener) Addr() net.Addr { return l.addr }

// given is a connection of which something has been read already.
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
		g.read = nil // lets go of the buffer
	}
	return n, nil
}

// CloseWrite lets net/http say that it has said all.
func (g *given) CloseWrite() error { return CloseWrite(g.Conn) }
