package testkit

import (
	"context"
	"net"
	"sync"
	"testing"
)

// linkBufferBytes is how much one direction of a connection carries at a time.
const linkBufferBytes = 64 << 10

// Link is a network between clients and one TCP server that can be cut. A link that is cut carries nothing and
// closes nothing, as a network does that loses all packets: both ends still believe in their connections, and
// new connections are taken and lead nowhere.
type Link struct {
	Addr string // what clients call instead of the server, 127.0.0.1:port

	server   string
	listener net.Listener
	over     context.Context //nolint:containedctx // ends with the test
	running  sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while the link carries
	pairs map[*pair]struct{}
}

// pair is a client's connection and the one to the server that belongs to it.
type pair struct {
	client, server net.Conn
	once           sync.Once
	gone           chan struct{}
}

// StartLink starts a link to the server at an address. It ends with the test.
func StartLink(t testing.TB, server string) *Link {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", FreeAddr(t))
	if err != nil {
		t.Fatalf("start a link: %v", err)
	}
	over, end := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &Link{Addr: listener.Addr().String(), server: server, listener: listener, over: over, open: make(chan struct{}), pairs: make(map[*pair]struct{})}
	close(l.open)
	l.running.Go(l.accept)
	t.Cleanup(func() {
		end()
		_ = listener.Close() // it has served its purpose
		l.drop()
		l.running.Wait()
	})
	return l
}

// Cut makes the link carry nothing until Resume or Reset.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isOpen() {
		l.open = make(chan struct{})
	}
}

// Resume makes the link carry again, first what was sent meanwhile on the connections that there are.
func (l *Link) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isOpen() {
		close(l.open)
	}
}

// Reset makes the link carry again, but only new connections: those that there are, and what was sent on them
// while it was cut, are lost.
func (l *Link) Reset() {
	l.drop()
	l.Resume()
}

// isOpen reports whether the link carries. Under the lock.
func (l *Link) isOpen() bool {
	select {
	case <-l.open:
		return true
	default:
		return false
	}
}

// drop resets every connection.
func (l *Link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		p.end(true)
	}
}

func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // closed: the test is over
		}
		p := &pair{client: client, gone: make(chan struct{})}
		l.mu.Lock()
		l.pairs[p] = struct{}{}
		l.mu.Unlock()
		l.running.Go(func() {
			defer func() {
				p.end(false)
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.pairs, p)
			}()
			l.carry(p)
		})
	}
}

// carry connects a client with the server until one of them ends or the link is reset.
func (l *Link) carry(p *pair) {
	if !l.await(p) {
		return
	}
	server, err := new(net.Dialer).DialContext(l.over, "tcp", l.server)
	if err != nil {
		return // the server is away, and so it is for the client
	}
	l.mu.Lock()
	p.server = server
	l.mu.Unlock()
	select {
	case <-p.gone: // ended before it had a server
		_ = server.Close() // nothing was said on it
		return
	default:
	}
	var both sync.WaitGroup
	both.Go(func() { l.pass(p, server, p.client) })
	both.Go(func() { l.pass(p, p.client, server) })
	both.Wait()
}

// pass carries one direction. Not only data waits while the link is cut, its end does too.
func (l *Link) pass(p *pair, to, from net.Conn) {
	defer p.end(false)
	buffer := make([]byte, linkBufferBytes)
	for {
		n, err := from.Read(buffer)
		if !l.await(p) {
			return
		}
		if _, failed := to.Write(buffer[:n]); failed != nil || err != nil {
			return
		}
	}
}

// await waits until the link carries; it says no if the pair has ended.
func (l *Link) await(p *pair) bool {
	for {
		l.mu.Lock()
		open, isOpen := l.open, l.isOpen()
		l.mu.Unlock()
		if isOpen {
			return true
		}
		select {
		case <-open:
		case <-p.gone:
			return false
		case <-l.over.Done():
			return false
		}
	}
}

// end closes both connections; with reset their ends lose what is on its way.
func (p *pair) end(reset bool) {
	p.once.Do(func() {
		close(p.gone)
		for _, c := range []net.Conn{p.client, p.server} {
			tcp, ok := c.(*net.TCPConn)
			if !ok {
				continue // there is none
			}
			if reset {
				_ = tcp.SetLinger(0) // one that has ended already needs no reset
			}
			_ = tcp.Close() // so does that
		}
	})
}
