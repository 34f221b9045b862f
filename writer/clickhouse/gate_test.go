package clickhouse_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// gate is a proxy in front of an engine. It uses TLS if it has a configuration for it, and can be closed, opened again on
// the same address, or made to hang: then it accepts everything and sends nothing.
type gate struct {
	t      *testing.T
	addr   string
	target string
	tls    *tls.Config

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
	hanging  bool
	answered bool // something came back through it since newGate
}

// newGate opens a gate to the address of a DSN, until the test ends.
func newGate(t *testing.T, dsn string, config *tls.Config) *gate {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	g := &gate{t: t, addr: "127.0.0.1:0", target: u.Host, tls: config, conns: make(map[net.Conn]struct{})}
	g.open()
	t.Cleanup(g.close)
	return g
}

func (g *gate) open() {
	listener, err := net.Listen("tcp", g.addr)
	require.NoError(g.t, err)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addr, g.listener = listener.Addr().String(), listener
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go g.pass(conn)
		}
	}()
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.listener.Close() // it may be closed already
	for conn := range g.conns {
		_ = conn.Close()
	}
}

func (g *gate) hang() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hanging = true
}

// used reports whether anything was answered through the gate.
func (g *gate) used() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.answered
}

// pass serves one connection until one of its sides ends.
func (g *gate) pass(client net.Conn) {
	if g.tls != nil {
		client = tls.Server(client, g.tls)
	}
	server, err := net.Dial("tcp", g.target)
	if err != nil {
		_ = client.Close()
		return
	}
	for _, conn := range []net.Conn{client, server} {
		g.mu.Lock()
		g.conns[conn] = struct{}{}
		g.mu.Unlock()
		defer func() {
			_ = conn.Close()
			g.mu.Lock()
			delete(g.conns, conn)
			g.mu.Unlock()
		}()
	}
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	_, _ = io.Copy(answers{g, client}, server)
}

// answers is the way back to a client; a gate that hangs swallows what goes there.
type answers struct {
	g      *gate
	client net.Conn
}

func (a answers) Write(p []byte) (int, error) {
	a.g.mu.Lock()
	hanging := a.g.hanging
	a.g.answered = a.g.answered || !hanging
	a.g.mu.Unlock()
	if hanging {
		return len(p), nil
	}
	return a.client.Write(p)
}
