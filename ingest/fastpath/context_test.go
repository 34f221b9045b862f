package fastpath

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// saying answers with what the context reports while the handler waits: "gone", or "there" after a long enough wait.
func saying(w http.ResponseWriter, r *http.Request, long time.Duration) {
	select {
	case <-r.Context().Done():
		_, _ = io.WriteString(w, "gone")
	case <-time.After(long):
		_, _ = io.WriteString(w, "there")
	}
}

// readBody reads a response's body.
func readBody(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return string(raw)
}

// TestClientGone: a handler that calls Done learns that the client has disconnected, whether it calls it before or after
// reading the body.
func TestClientGone(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"asked early": true, "asked late": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			waiting, gone := make(chan struct{}), make(chan error)
			f := setup(t, func(_ http.ResponseWriter, r *http.Request) {
				if early {
					_ = r.Context().Done()
				}
				_, _ = io.Copy(io.Discard, r.Body)
				done := r.Context().Done()
				close(waiting)
				<-done
				gone <- r.Context().Err()
			}, nil)
			c := f.dial(t)
			write(t, c, post("{}"))
			<-waiting
			require.NoError(t, c.Close())
			require.ErrorIs(t, <-gone, context.Canceled)
		})
	}
}

// TestWatchHasNoDeadline: a handler may take longer than the client's timeout for its header, or for its next request.
func TestWatchHasNoDeadline(t *testing.T) {
	t.Parallel()
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		saying(w, r, 200*time.Millisecond)
	}, func(s *http.Server) { s.ReadHeaderTimeout, s.IdleTimeout = 50*time.Millisecond, 100*time.Millisecond })
	c := f.dial(t)
	in := bufio.NewReader(c)
	for range 3 {
		write(t, c, post("{}"))
		require.Equal(t, "there", readBody(t, in))
	}
}

// TestWatchedBehindWatched: the deadline that ends the watch of one request does not affect the next, which arrived
// meanwhile.
func TestWatchedBehindWatched(t *testing.T) {
	t.Parallel()
	waiting, proceed := make(chan struct{}), make(chan struct{})
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		if string(raw) == "first" {
			_ = r.Context().Done()
			waiting <- struct{}{}
			<-proceed
			return
		}
		saying(w, r, 100*time.Millisecond)
	}, nil)
	c := f.dial(t)
	in := bufio.NewReader(c)
	write(t, c, post("first"))
	<-waiting
	write(t, c, post("second"))
	proceed <- struct{}{}
	require.Empty(t, readBody(t, in))
	require.Equal(t, "there", readBody(t, in))
}

// TestWatchedClientGoesOn: a client that was watched, and whose next request arrived meanwhile, gets every response.
func TestWatchedClientGoesOn(t *testing.T) {
	t.Parallel()
	var contexts []<-chan struct{}
	waiting, proceed := make(chan struct{}), make(chan struct{})
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		contexts = append(contexts, r.Context().Done())
		waiting <- struct{}{}
		<-proceed
		_, _ = w.Write(raw)
	}, nil)
	c := f.dial(t)
	in := bufio.NewReader(c)
	write(t, c, post("first"))
	for range 20 {
		<-waiting
		write(t, c, post("next")) // while the previous one is watched
		proceed <- struct{}{}
		require.False(t, read(t, in))
	}
	<-waiting
	proceed <- struct{}{}
	read(t, in)
	for _, done := range contexts {
		<-done // all have ended
	}
	require.Equal(t, int64(21), f.here.Load())
}

// TestUnreadBodyIsNotWatched: the unread rest of the body is not mistaken for the next request.
func TestUnreadBodyIsNotWatched(t *testing.T) {
	t.Parallel()
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.Context().Done()
		raw, _ := io.ReadAll(r.Body)
		_, _ = w.Write(raw)
	}, nil)
	body := strings.Repeat("x", 100_000)
	s := talk(t, f.addr, []string{post(body), post("{}")}, 2)
	require.Contains(t, s.answers[0], body)
	require.Contains(t, s.answers[1], "{}")
}

// TestDerivedContexts: contexts that a handler derives end with its request, and are not affected by the next.
func TestDerivedContexts(t *testing.T) {
	t.Parallel()
	type key struct{}
	derived, ended := make(chan context.Context, 1), make(chan struct{}, 1)
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		outer := context.WithValue(r.Context(), key{}, "v")
		ctx, cancel := context.WithTimeout(outer, testTimeout)
		defer cancel()
		raw, _ := io.ReadAll(r.Body)
		if string(raw) == "keeps it" {
			context.AfterFunc(outer, func() { ended <- struct{}{} })
			derived <- ctx
		}
		_, _ = w.Write(raw)
	}, nil)
	c := f.dial(t)
	in := bufio.NewReader(c)
	for range 100 {
		for _, body := range []string{"keeps it", strings.Repeat("x", 5_000)} {
			write(t, c, post(body))
			require.Equal(t, body, readBody(t, in))
		}
		ctx := <-derived
		<-ended // with the request
		<-ctx.Done()
		require.ErrorIs(t, ctx.Err(), context.Canceled)
	}
}

// TestDoneBehindTheAnswer: a call of Done after the response does not affect the next request.
func TestDoneBehindTheAnswer(t *testing.T) {
	t.Parallel()
	contexts, begun, proceed := make(chan context.Context, 2), make(chan struct{}), make(chan struct{})
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		contexts <- r.Context()
		if r.Header.Get("X-Wait") != "" {
			begun <- struct{}{}
			<-proceed
		}
		raw, _ := io.ReadAll(r.Body)
		_, _ = w.Write(raw)
	}, nil)
	c := f.dial(t)
	in := bufio.NewReader(c)
	write(t, c, post("first"))
	require.Equal(t, "first", readBody(t, in))
	_ = (<-contexts).Done()
	next := post("the body", "X-Wait: yes")
	write(t, c, strings.TrimSuffix(next, "the body"))
	<-begun
	write(t, c, "the body")
	proceed <- struct{}{}
	require.Equal(t, "the body", readBody(t, in))
}

// TestAbortEndsTheContext: a handler that aborts ends its context and the watch, as any other does.
func TestAbortEndsTheContext(t *testing.T) {
	t.Parallel()
	done := make(chan (<-chan struct{}), 1)
	f := setup(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		done <- r.Context().Done()
		panic(http.ErrAbortHandler)
	}, nil)
	c := f.dial(t)
	write(t, c, post("{}"))
	requireClosed(t, c)
	<-<-done
}

// TestNoWatchBehindASkippedBody: that the body of one request was skipped after its handler does not affect the next.
func TestNoWatchBehindASkippedBody(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	f := setup(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Read") == "nothing" {
			return
		}
		_ = r.Context().Done()
		begun <- struct{}{}
		raw, _ := io.ReadAll(r.Body)
		_, _ = w.Write(raw)
	}, func(s *http.Server) { s.ReadTimeout = time.Second })
	c := f.dial(t)
	in := bufio.NewReader(c)
	write(t, c, post("unread", "X-Read: nothing"))
	require.Empty(t, readBody(t, in))
	write(t, c, strings.TrimSuffix(post("the body"), "the body"))
	<-begun
	write(t, c, "the body")
	require.Equal(t, "the body", readBody(t, in))
}
