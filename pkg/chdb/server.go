package chdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	headerBytesMax    = 1 << 20 // A statement may be in the URL.
)

// ErrOpenToAll says that the listener would let anyone on the network run SQL, which reads files too.
var ErrOpenToAll = errors.New("the ClickHouse interface would be open to the network")

// ServerConfig says where the HTTP interface listens.
type ServerConfig struct {
	// Addr is host:port. Port 0 takes a free one, which Addr of the server tells.
	Addr string
	// Listener, if given, is listened on instead of Addr. It is the server's from then on.
	Listener net.Listener
	// Owner, if given, is listened on too. Its connections have the owner's rights without a password, and are not counted. It is the
	// server's from then on.
	Owner net.Listener
	// ConnectionsMax bounds the connections that are open at once; more wait. Default 512.
	ConnectionsMax int
	// ShutdownTimeout is how long requests under way may take after the end of Run's context. Default 1.5 seconds.
	ShutdownTimeout time.Duration
}

// Server serves an engine's HTTP interface.
type Server struct {
	config   ServerConfig
	listener net.Listener
	owner    net.Listener // nil: none
	server   *http.Server
	waiting  *newcomers
	log      *slog.Logger
}

// NewServer takes the port, so that a port that is taken is an error here. Close or Run must follow. An address beyond this machine needs
// an engine with a password; else the error is ErrOpenToAll.
func NewServer(config ServerConfig, engine *Engine) (*Server, error) {
	setDefault(&config.ConnectionsMax, 512)
	setDefault(&config.ShutdownTimeout, 1500*time.Millisecond)
	if config.ConnectionsMax < 0 || config.ShutdownTimeout < 0 {
		return nil, fmt.Errorf("chdb server configuration: %d connections and %s to shut down must not be negative",
			config.ConnectionsMax, config.ShutdownTimeout)
	}
	listener := config.Listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", config.Addr); err != nil {
			return nil, fmt.Errorf("listen for ClickHouse's HTTP interface on %s: %w", config.Addr, err)
		}
	}
	if address, ok := listener.Addr().(*net.TCPAddr); ok && !address.IP.IsLoopback() && engine.config.Password == "" {
		_ = listener.Close()
		return nil, fmt.Errorf("%w at %s: set a password, or listen on 127.0.0.1", ErrOpenToAll, listener.Addr())
	}
	if config.Owner != nil {
		config.Owner = ownerListener{config.Owner}
	}
	waiting := new(newcomers)
	return &Server{
		waiting:  waiting,
		config:   config,
		listener: netutil.LimitListener(listener, config.ConnectionsMax),
		owner:    config.Owner,
		log:      engine.log,
		server: &http.Server{
			Handler:           engine.Handler(),
			ReadHeaderTimeout: readHeaderTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    headerBytesMax,
			ConnState:         waiting.note,
			ConnContext:       ownerContext,
			ErrorLog:          slog.NewLogLogger(engine.log.Handler(), slog.LevelDebug),
		},
	}, nil
}

// Addr is the address that is listened on, as host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// listeners are those that are served.
func (s *Server) listeners() []net.Listener {
	if s.owner == nil {
		return []net.Listener{s.listener}
	}
	return []net.Listener{s.listener, s.owner}
}

// Run serves until ctx is done, then lets requests under way finish within ShutdownTimeout and breaks off the rest. It returns nil after
// that, or what ended it otherwise.
func (s *Server) Run(ctx context.Context) error {
	listeners := s.listeners()
	served := make(chan error, len(listeners))
	for _, listener := range listeners {
		go func() { served <- s.server.Serve(listener) }()
	}
	s.log.Info("ClickHouse's HTTP interface is up", "addr", s.Addr())
	select {
	case err := <-served:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve ClickHouse's HTTP interface on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.ShutdownTimeout)
	defer cancel()
	s.waiting.hurry()
	if err := s.server.Shutdown(grace); err != nil {
		s.log.Warn("cut off requests to ClickHouse's HTTP interface", "error", err)
	}
	err := s.Close()
	for range listeners {
		if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
			err = errors.Join(err, ended)
		}
	}
	return err
}

// Close stops listening and breaks off what is under way. It may be called at any time and more than once.
func (s *Server) Close() error {
	err := s.server.Close()
	for _, listener := range s.listeners() {
		if closing := listener.Close(); closing != nil && !errors.Is(closing, net.ErrClosed) {
			err = errors.Join(err, closing)
		}
	}
	if err != nil {
		return fmt.Errorf("close ClickHouse's HTTP interface: %w", err)
	}
	return nil
}

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

// hurry sets a last deadline for the connections that are there now.
func (n *newcomers) hurry() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for conn := range n.conns {
		_ = conn.SetReadDeadline(time.Now().Add(newcomerGrace)) // If it fails, the connection has gone already.
	}
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
