package fastpath

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves a listener's connections. Make it with New.
type Server struct {
	rest  *http.Server
	log   *slog.Logger
	line  string // the request line of what is served here
	url   url.URL
	slack time.Duration // three times this is how much longer an idle connection may be kept

	given   *givenListener
	closing atomic.Bool
	dates   dates

	mu       sync.Mutex
	listener net.Listener
	conns    map[*conn]struct{}
	ended    chan struct{} // of the last connection; nil until somebody waits for it

	resting sync.WaitGroup // rest.Serve
}

const (
	// idleShare is which part of the idle timeout the slack is: to set a deadline with each request costs more than
	// to read it.
	idleShare = 8
	// Behind a connection that could not be accepted there is a pause, twice as long each time, as net/http makes it.
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// New makes a server for POSTs to path, which net/http would find in a request line as it stands. All else is rest's, and its
// handler, timeouts and limits hold for what is served here too. All four timeouts must be positive. Its ConnState, ConnContext and
// BaseContext are not for what is served here.
func New(path string, rest *http.Server, log *slog.Logger) *Server {
	return &Server{
		rest: rest, log: log,
		line: http.MethodPost + " " + path + " HTTP/1.1\r\n", url: url.URL{Path: path},
		slack: rest.IdleTimeout / idleShare,
		given: newGivenListener(), conns: make(map[*conn]struct{}),
	}
}

// Serve accepts connections until the listener is closed, which Shutdown and Close do. It returns http.ErrServerClosed behind those,
// and otherwise what the listener said.
func (s *Server) Serve(l net.Listener) error {
	if !s.begin(l) {
		return errors.Join(http.ErrServerClosed, l.Close())
	}
	var pause time.Duration
	for {
		accepted, err := l.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case s.closing.Load():
			if err == nil {
				_ = accepted.Close() // nothing has been said yet
			}
			return http.ErrServerClosed
		case errors.As(err, &temporary) && temporary.Temporary(): // most often, there are too many open files
			pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
			s.log.Warn("a connection could not be accepted", "error", err, "again_after", pause)
			<-time.After(pause)
			continue
		case err != nil:
			return err
		}
		pause = 0
		if _, secured := accepted.(interface{ ConnectionState() tls.ConnectionState }); secured {
			s.given.give(accepted)
			continue
		}
		c := newConn(s, accepted)
		if !s.enter(c) {
			_ = accepted.Close()
			return http.ErrServerClosed
		}
		go c.run() // ends with the connection; Shutdown waits for it
	}
}

// begin notes the listener, unless the server is closing.
func (s *Server) begin(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.listener = l
	s.given.addr = l.Addr()
	s.resting.Go(func() { _ = s.rest.Serve(s.given) }) // ends with http.ErrServerClosed: the listener is ours
	return true
}

// enter notes a connection, unless the server is closing.
func (s *Server) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
}

// Shutdown stops accepting, closes idle connections, and waits until all requests are answered or ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	ended, err := s.stop((*conn).closeIdle)
	if ended != nil {
		select {
		case <-ended:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
	err = errors.Join(err, s.rest.Shutdown(ctx))
	s.given.close()
	if err == nil {
		s.resting.Wait()
	}
	return err
}

// Close closes all connections, whatever they are doing.
func (s *Server) Close() error {
	ended, err := s.stop(func(c *conn) { _ = c.Close() })
	err = errors.Join(err, s.rest.Close())
	s.given.close()
	s.resting.Wait()
	if ended != nil {
		<-ended
	}
	return err
}

// stop stops accepting, does something to each connection, and returns what is closed when the last of them has ended.
func (s *Server) stop(each func(*conn)) (ended <-chan struct{}, err error) {
	s.rest.SetKeepAlivesEnabled(false) // its Shutdown comes when the connections here have ended
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing.Swap(true) && s.listener != nil {
		err = s.listener.Close()
	}
	if len(s.conns) == 0 {
		return nil, err
	}
	if s.ended == nil {
		s.ended = make(chan struct{})
	}
	for c := range s.conns {
		each(c)
	}
	return s.ended, err
}
