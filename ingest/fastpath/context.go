package fastpath

import (
	"context"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
)

// requestContext is the context of a connection's requests, one after the other. The connection is watched for a
// disconnect only if the handler calls Done.
type requestContext struct {
	c *conn

	mu      sync.Mutex
	inner   context.Context // nil until Done is called
	cancel  context.CancelFunc
	read    bool          // the request, and nothing after it, has been read
	watched chan struct{} // closed when the watch has ended; nil if there is none
	ahead   int           // bytes of the next request that the watch read into the connection's buffer
	ending  bool
}

// Deadline reports that there is no deadline.
func (*requestContext) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done returns a channel that is closed when the client disconnects or the request has been answered.
func (x *requestContext) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		x.inner, x.cancel = context.WithCancel(context.Background())
		x.beginWatch()
	}
	return x.inner.Done()
}

// Err returns why Done is closed.
func (x *requestContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		return nil
	}
	return x.inner.Err()
}

// Value returns a chi context, so that chi allocates neither one nor a copy of the request to hold it. For the key that
// package context uses to derive a context without a goroutine, it asks inner.
func (x *requestContext) Value(key any) any {
	if key == chi.RouteCtxKey {
		return x.c.route
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		return nil
	}
	return x.inner.Value(key)
}

// bodyRead records that the body has been read. With more data from the client, it is still connected and need not be
// watched.
func (x *requestContext) bodyRead(more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.read = !more
	x.beginWatch()
}

// beginWatch starts watching the client if Done was called, once only the next request can arrive. The caller holds the
// lock.
func (x *requestContext) beginWatch() {
	if x.inner == nil || !x.read || x.watched != nil {
		return
	}
	x.watched = make(chan struct{})
	_ = x.c.SetReadDeadline(time.Time{}) // the handler limits the wait; end sets a deadline
	go x.watch(x.watched)                // ends with the request
}

// watch reads from the connection, as net/http does during every request: no data arrives before the response, unless the
// client pipelines requests.
func (x *requestContext) watch(watched chan struct{}) {
	defer close(watched)
	n, err := x.c.Conn.Read(x.c.buf)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ahead = n
	if err != nil && !x.ending {
		x.cancel()
	}
}

// end ends the request's context and the watch, and prepares both for the next request.
func (x *requestContext) end() {
	x.mu.Lock()
	x.read = false
	if x.inner == nil {
		x.mu.Unlock()
		return
	}
	x.ending = true
	x.cancel()
	watched := x.watched
	x.mu.Unlock()
	if watched != nil {
		x.c.setReadDeadline(time.Unix(1, 0)) // in the past: interrupts the read
		<-watched
		x.c.in = x.c.buf[:x.ahead]
	}
	x.mu.Lock()
	x.inner, x.cancel, x.watched, x.ahead, x.ending = nil, nil, nil, 0, false
	x.mu.Unlock()
}
