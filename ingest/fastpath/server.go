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

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// Server serves a listener's connections. Make it with New.
type Server struct {
	rest  *http.Server
	log   *slog.Logger
	lines lines
	url   url.URL
	slack time.Duration // an idle connection may be kept up to three times this longer

	given   *givenListener
	closing atomic.Bool
	dates   dates

	mu       sync.Mutex
	listener net.Listener
	conns    map[*conn]struct{}
	ended    chan struct{} // closed when the last connection ends; nil until Shutdown or Close waits for it

	resting sync.WaitGroup // rest.Serve
}

const (
	// idleShare is the part of the idle timeout that is slack: setting a deadline for each request costs more than reading the
	// request.
	idleShare = 8
	// After a failed accept there is a pause, which doubles each time, as in net/http.
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// New returns a server for POSTs to path, which must appear in the request line as it is, or with a slash at its end. All
// other requests go to rest, whose handler, timeouts and limits also apply to requests served here. All four timeouts must be positive. Its
// ConnState, ConnContext and BaseContext do not apply here.
func New(path string, rest *http.Server, log *slog.Logger) *Server {
	return &Server{
		rest: rest, log: log,
		lines: linesOf(path), url: url.URL{Path: path},
		slack: rest.IdleTimeout / idleShare,
		given: newGivenListener(), conns: make(map[*conn]struct{}),
	}
}

// Serve accepts connections until the listener is closed, by Shutdown or Close. It then returns http.ErrServerClosed, and
// otherwise the listener's error.
func (s *Server) Serve(l net.Listener) error {
	if !s.begin(l) {
		return errors.Join(http.ErrServerClosed, l.Close())
	}
	backoff, failures := lifecycle.Backoff{Min: acceptPauseMin, Max: acceptPauseMax}, 0 // in a row
	for {
		accepted, err := l.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case s.closing.Load():
			if err == nil {
				_ = accepted.Close() // nothing has been sent yet
			}
			return http.ErrServerClosed
		case errors.As(err, &temporary) && temporary.Temporary(): // most often too many open files
			failures++
			pause := backoff.After(failures)
			s.log.Warn("cannot accept a connection", "error", err, "again_after", pause)
			<-time.After(pause)
			continue
		case err != nil:
			return err
		}
		failures = 0
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

// begin registers the listener, unless the server is closing.
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

// enter registers a connection, unless the server is closing.
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

// stop stops accepting, calls each for every connection, and returns a channel that is closed when the last of them has
// ended.
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
