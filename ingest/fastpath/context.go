package fastpath

import (
	"context"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
)

// requestContext is the context of a connection's requests, one after the other. The client is watched only if somebody wants
// to know whether it has gone.
type requestContext struct {
	c *conn

	mu      sync.Mutex
	inner   context.Context // nil: nobody has asked for Done
	cancel  context.CancelFunc
	read    bool          // the request has been read to its end, and nothing behind it
	watched chan struct{} // closed when the watch has ended; nil: there is none
	ahead   int           // bytes of the next request that it read into the connection's buffer
	ending  bool
}

// Deadline says that there is none.
func (*requestContext) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done is closed when the client goes away, or the request has been answered.
func (x *requestContext) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		x.inner, x.cancel = context.WithCancel(context.Background())
		x.beginWatch()
	}
	return x.inner.Done()
}

// Err says why Done is closed.
func (x *requestContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		return nil
	}
	return x.inner.Err()
}

// Value has a context for chi, which needs to make none then, nor a copy of the request that has it. What package context
// asks for, to derive from this one without a goroutine, inner knows.
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

// bodyRead notes that the body has been read. A client that has more to say is there, and need not be watched.
func (x *requestContext) bodyRead(more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.read = !more
	x.beginWatch()
}

// beginWatch watches the client if somebody wants to know, as soon as nothing but the next request can come. Under the lock.
func (x *requestContext) beginWatch() {
	if x.inner == nil || !x.read || x.watched != nil {
		return
	}
	x.watched = make(chan struct{})
	_ = x.c.SetReadDeadline(time.Time{}) // the handler's patience is the limit; end sets one
	go x.watch(x.watched)                // ends with the request
}

// watch reads on, as net/http does with every request: nothing comes before the client has its answer, unless it sends requests ahead.
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

// end ends the request's context and the watch, and readies it for the next request.
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
		x.c.setReadDeadline(time.Unix(1, 0)) // long ago
		<-watched
		x.c.in = x.c.buf[:x.ahead]
	}
	x.mu.Lock()
	x.inner, x.cancel, x.watched, x.ahead, x.ending = nil, nil, nil, 0, false
	x.mu.Unlock()
}
