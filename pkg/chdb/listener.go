package chdb

import (
	"context"
	"net"
	"sync"
)

// boundedListener accepts no more connections than it has slots. Those that come when all are taken wait in the system's queue.
type boundedListener struct {
	net.Listener

	slots chan struct{}
	once  sync.Once
	done  chan struct{}
}

func newBoundedListener(listener net.Listener, slots int) *boundedListener {
	return &boundedListener{Listener: listener, slots: make(chan struct{}, slots), done: make(chan struct{})}
}

// Accept waits for a slot, then for a connection.
func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &boundedConn{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close also ends an Accept that waits for a slot.
func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// boundedConn returns its slot when it is closed.
type boundedConn struct {
	net.Conn

	release func()
}

func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// ownerListener marks its connections as the owner's.
type ownerListener struct{ net.Listener }

func (l ownerListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return ownerConn{conn}, nil
}

type ownerConn struct{ net.Conn }

// ownerContext is an http.Server.ConnContext.
func ownerContext(ctx context.Context, conn net.Conn) context.Context {
	if _, ok := conn.(ownerConn); ok {
		return context.WithValue(ctx, identityKey{}, owner)
	}
	return ctx
}
