package fastpath

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// halfPipe is a net.Pipe whose server side supports CloseWrite.
type halfPipe struct {
	net.Conn
	ended atomic.Bool
}

func (p *halfPipe) CloseWrite() error { p.ended.Store(true); return nil }

// linger lets a connection linger whose client writes a piece at each interval until a write fails, and returns how long
// that took. during, if set, runs concurrently.
func linger(t *testing.T, l *Lingerer, piece int, interval time.Duration, during func()) time.Duration {
	t.Helper()
	client, accepted := net.Pipe()
	server := &halfPipe{Conn: accepted}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			<-time.After(interval) // of the bubble's clock
			if _, err := client.Write(make([]byte, piece)); err != nil {
				return
			}
		}
	}()
	if during != nil {
		go during()
	}
	start := time.Now()
	require.NoError(t, l.Linger(server))
	require.True(t, server.ended.Load())
	took := time.Since(start)
	require.NoError(t, server.Close())
	<-ended
	require.Empty(t, l.slots)
	return took
}

func TestLingerIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		require.Equal(t, LingerTimeout, linger(t, NewLingerer(), 1, time.Second, nil), "a slow drip")
		require.Equal(t, LingerSilenceMax, linger(t, NewLingerer(), 1, time.Hour, nil), "silence")
		require.Equal(t, LingerBytesMax/(1<<20)*time.Millisecond, linger(t, NewLingerer(), 1<<20, time.Millisecond, nil), "a flood")
		l := NewLingerer()
		took := linger(t, l, 1, 100*time.Millisecond, func() { <-time.After(3 * time.Second); l.Hurry() })
		require.InDelta(t, (3*time.Second + briefTimeout).Seconds(), took.Seconds(), 0.2, "the server stops")
	})
}

func TestLingerEndsWhenTheClientDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, accepted := net.Pipe()
		go func() { <-time.After(time.Second); _ = client.Close() }()
		start := time.Now()
		require.NoError(t, NewLingerer().Linger(&halfPipe{Conn: accepted}))
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestFewLinger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLingerer()
		full := make(chan struct{})
		for range LingerConnectionsMax {
			_, accepted := net.Pipe()
			go func() {
				_ = l.Linger(&halfPipe{Conn: accepted})
				full <- struct{}{}
			}()
		}
		synctest.Wait()
		require.Len(t, l.slots, LingerConnectionsMax)
		start := time.Now()
		_, accepted := net.Pipe()
		require.NoError(t, l.Linger(&halfPipe{Conn: accepted}))
		require.Zero(t, time.Since(start), "one more is closed without")
		for range LingerConnectionsMax {
			<-full
		}
	})
}
