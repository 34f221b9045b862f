package fastpath

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dial opens a connection without a deadline.
func (f *front) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	return c
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
}

// read reads a response, and reports whether the connection is closed after it.
func read(t *testing.T, in *bufio.Reader) (closes bool) {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	_, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.Close
}

// requireClosed waits until the server has closed the connection without sending more.
func requireClosed(t *testing.T, in io.Reader) {
	t.Helper()
	rest, err := io.ReadAll(in)
	if !errors.Is(err, syscall.ECONNRESET) {
		require.NoError(t, err)
	}
	require.Empty(t, string(rest))
}

// short sets a short timeout of net/http.
func short(timeout func(*http.Server) *time.Duration) func(*http.Server) {
	return func(s *http.Server) { *timeout(s) = 50 * time.Millisecond }
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		timeout func(*http.Server) *time.Duration
		says    string
		answers int
	}{
		"silent from the start":  {func(s *http.Server) *time.Duration { return &s.ReadHeaderTimeout }, "", 0},
		"silent after a request": {func(s *http.Server) *time.Duration { return &s.IdleTimeout }, post("{}"), 1},
		"half a body":            {func(s *http.Server) *time.Duration { return &s.ReadTimeout }, post("{}")[:len(post("{}"))-1], 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failed := make(chan error, 1)
			f := setup(t, func(_ http.ResponseWriter, r *http.Request) {
				_, err := io.ReadAll(r.Body)
				failed <- err
			}, short(row.timeout))
			c := f.dial(t)
			write(t, c, row.says)
			in := bufio.NewReader(c)
			for range row.answers {
				closes := read(t, in)
				if err := <-failed; err != nil {
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.True(t, closes, "what is left of the body is not read as a request")
				}
			}
			requireClosed(t, in)
		})
	}
}

// TestClientThatDoesNotRead: a connection whose client reads nothing ends.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	f := setup(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 16<<20)) }, short(func(s *http.Server) *time.Duration { return &s.WriteTimeout }))
	write(t, f.dial(t), post("{}"))
	require.Eventually(t, func() bool { return f.here.Load() == 1 }, testTimeout, time.Millisecond)
	require.NoError(t, f.Shutdown(t.Context()))
}

func TestCutBody(t *testing.T) {
	t.Parallel()
	failed := make(chan error, 1)
	f := setup(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		failed <- err
	}, nil)
	c := f.dial(t)
	write(t, c, post("{}")[:len(post("{}"))-1])
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	require.ErrorIs(t, <-failed, io.ErrUnexpectedEOF)
	in := bufio.NewReader(c)
	require.True(t, read(t, in))
	requireClosed(t, in)
}

// TestIdleFromTheAnswer: the idle timeout excludes the time that a handler takes.
func TestIdleFromTheAnswer(t *testing.T) {
	t.Parallel()
	const idle = 400 * time.Millisecond
	f := setup(t, func(http.ResponseWriter, *http.Request) { <-time.After(2 * idle) }, func(s *http.Server) { s.IdleTimeout = idle })
	c := f.dial(t)
	in := bufio.NewReader(c)
	for range 2 {
		write(t, c, post("{}"))
		require.False(t, read(t, in))
		<-time.After(idle / 4)
	}
}

// TestRequestsKeepNothing: what a handler writes into a request does not appear in the next one.
func TestRequestsKeepNothing(t *testing.T) {
	t.Parallel()
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			panic(err)
		}
		_, _ = io.WriteString(w, r.PostForm.Encode()+" "+r.Method+" "+r.Header.Get("X-Own"))
		r.Method, r.RemoteAddr, r.Host = "changed", "changed", "changed"
		r.Header.Set("X-Own", "changed")
	}, nil)
	form := "Content-Type: application/x-www-form-urlencoded"
	c := f.dial(t)
	in := bufio.NewReader(c)
	write(t, c, post("a=1", form))
	require.Equal(t, "a=1 POST ", readBody(t, in))
	write(t, c, post("b=2", form))
	require.Equal(t, "b=2 POST ", readBody(t, in))
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	waiting, proceed := make(chan struct{}), make(chan struct{})
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		waiting <- struct{}{}
		<-proceed
		echo(w, r)
	}, nil)
	idle, busy, odd, fresh := f.dial(t), f.dial(t), f.dial(t), f.dial(t)
	ins := map[net.Conn]*bufio.Reader{}
	for _, c := range []net.Conn{idle, busy, odd, fresh} {
		ins[c] = bufio.NewReader(c)
	}
	write(t, idle, post("{}"))
	<-waiting
	proceed <- struct{}{}
	read(t, ins[idle])
	write(t, busy, post("{}"))
	<-waiting
	write(t, odd, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-waiting

	down := make(chan error, 1)
	go func() { down <- f.Shutdown(context.Background()) }()
	requireClosed(t, ins[idle])
	requireClosed(t, ins[fresh])
	_, err := net.Dial("tcp", f.addr)
	require.Error(t, err, "nothing is accepted any more")
	select {
	case err := <-down:
		require.Fail(t, "it did not wait for the requests", "%v", err)
	default:
	}
	close(proceed)
	require.True(t, read(t, ins[busy]))
	require.True(t, read(t, ins[odd]))
	require.NoError(t, <-down)
	require.ErrorIs(t, <-f.served, http.ErrServerClosed)
	require.NoError(t, f.Shutdown(t.Context()), "twice does no harm")
	require.NoError(t, f.Close())
}

// TestClose: requests that are not answered in time are cut off.
func TestClose(t *testing.T) {
	t.Parallel()
	waiting, proceed := make(chan struct{}), make(chan struct{})
	f := setup(t, func(http.ResponseWriter, *http.Request) {
		close(waiting)
		<-proceed
	}, nil)
	c := f.dial(t)
	write(t, c, post("{}"))
	<-waiting
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, f.Shutdown(ctx), context.Canceled)
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	requireClosed(t, c)
	close(proceed)
	require.NoError(t, <-closed)
}

// TestShutdownBeforeServe: a server that was shut down does not serve.
func TestShutdownBeforeServe(t *testing.T) {
	t.Parallel()
	s := New(path, reference(echo), slog.New(slog.DiscardHandler))
	require.NoError(t, s.Shutdown(t.Context()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.Serve(l), http.ErrServerClosed)
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestPanic: a handler that panics ends its connection, and no other.
func TestPanic(t *testing.T) {
	t.Parallel()
	f := setup(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Panic") != "" {
			panic("as asked")
		}
	}, nil)
	other := f.dial(t)
	write(t, other, post("{}"))
	in := bufio.NewReader(other)
	read(t, in)
	c := f.dial(t)
	write(t, c, post("{}", "X-Panic: yes"))
	requireClosed(t, c)
	write(t, other, post("{}"))
	read(t, in)
	require.NoError(t, f.Shutdown(t.Context()))
}

// failing is a listener whose first calls of Accept fail.
type failing struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (l *failing) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

// TestAcceptFails: too many open files is a temporary error; a permanent one ends Serve.
func TestAcceptFails(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	broken := errors.New("broken")
	s := New(path, reference(echo), slog.New(slog.DiscardHandler))
	require.ErrorIs(t, s.Serve(&failing{Listener: inner, errs: []error{
		&net.OpError{Op: "accept", Err: os.NewSyscallError("accept", syscall.EMFILE)},
		&net.OpError{Op: "accept", Err: os.NewSyscallError("accept", syscall.EMFILE)},
		broken,
	}}), broken)
	require.NoError(t, s.Close())
}
