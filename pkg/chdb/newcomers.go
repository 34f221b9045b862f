package chdb

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// newcomerGrace is how long, once the server is to shut down, a connection that never brought a request has to bring one.
const newcomerGrace = 250 * time.Millisecond

// newcomers are the connections that have not brought a request yet. Clients open some in advance. http.Server.Shutdown waits for them for
// five seconds, in case one is about to begin; this cuts that short.
type newcomers struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// note is an http.Server.ConnState.
func (n *newcomers) note(conn net.Conn, state http.ConnState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if state == http.StateNew {
		if n.conns == nil {
			n.conns = make(map[net.Conn]struct{})
		}
		n.conns[conn] = struct{}{}
		return
	}
	delete(n.conns, conn)
}

// hurry gives those that are there now their last moment.
func (n *newcomers) hurry() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for conn := range n.conns {
		_ = conn.SetReadDeadline(time.Now().Add(newcomerGrace)) // If it fails, the connection has gone already.
	}
}
