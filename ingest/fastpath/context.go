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
	done    chan struct{} // nil: nobody has asked
	err     error
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
	if x.done == nil {
		x.done = make(chan struct{})
	}
	// A client that has more to say is there.
	if x.watched == nil && !x.ending && x.c.body.left == 0 && len(x.c.in) == 0 {
		x.watched = make(chan struct{})
		go x.watch(x.watched) // ends with the request
	}
	return x.done
}

// Err says why Done is closed.
func (x *requestContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// Value has a context for chi, which needs to make none then, nor a copy of the request that has it.
func (x *requestContext) Value(key any) any {
	if key == chi.RouteCtxKey {
		return x.c.route
	}
	return nil
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

func (x *requestContext) cancel() {
	if x.err != nil {
		return
	}
	x.err = context.Canceled
	if x.done != nil {
		close(x.done)
	}
}

// end ends the request's context and the watch, and readies it for the next request.
func (x *requestContext) end() {
	x.mu.Lock()
	if x.done == nil { // nobody has asked, and nobody may any more
		x.mu.Unlock()
		return
	}
	x.ending = true
	x.cancel()
	watched := x.watched
	x.mu.Unlock()
	if watched != nil {
		c := x.c
		c.setReadDeadline(time.Unix(1, 0)) // long ago
		<-watched
		c.in = c.buf[:x.ahead]
	}
	x.mu.Lock()
	x.done, x.err, x.watched, x.ahead, x.ending = nil, nil, nil, 0, false
	x.mu.Unlock()
}
