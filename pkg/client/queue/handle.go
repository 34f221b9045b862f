package queue

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"weak"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// Handle is one send that was enqueued, for who wants to wait for it. One that is ignored costs nothing once it is garbage.
type Handle struct {
	// Number names the send in this queue; ClientMsgNo is the send's, or the one that was made for it.
	Number      uint64
	ClientMsgNo string

	queue *Queue
	block *handleBlock
	done  chan struct{} // made by the first Wait
	ended bool
	// What became of it, once it has ended.
	result client.Result
	err    error
}

// handleBlock is the handles of one Enqueue. The queue knows it weakly: handles that nothing waits on must not fill memory.
type handleBlock struct {
	mu      sync.Mutex // of the handles, below Number
	handles []Handle
}

type promise struct {
	block weak.Pointer[handleBlock]
	at    int
}

// DeadError is the error of a send that became a dead letter.
type DeadError struct{ Letter DeadLetter }

// Error is why.
func (e *DeadError) Error() string {
	return fmt.Sprintf("queue: send %s was given up: %s: %s", e.Letter.Send.ClientMsgNo, e.Letter.Reason, e.Letter.Text)
}

func newHandles(q *Queue, n int) []*Handle {
	block := &handleBlock{handles: make([]Handle, n)}
	all := make([]*Handle, n)
	for i := range all {
		all[i] = &block.handles[i]
		all[i].queue, all[i].block = q, block
	}
	return all
}

// promise notes that the handles of one call, whose numbers follow each other, receive the results of their sends, until they are garbage.
func (q *Queue) promise(handles []*Handle) {
	block := handles[0].block
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, h := range handles {
		q.handles[h.Number] = promise{weak.Make(block), i}
	}
	n := len(handles)
	runtime.AddCleanup(block, func(first uint64) { q.unpromise(first, n) }, handles[0].Number)
}

// unpromise forgets n handles whose numbers begin at first.
func (q *Queue) unpromise(first uint64, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range n {
		delete(q.handles, first+uint64(i))
	}
}

// resolve tells a handle, if there is one, what became of its send.
func (q *Queue) resolve(number uint64, r client.Result, err error) {
	q.mu.Lock()
	p, known := q.handles[number]
	delete(q.handles, number)
	q.mu.Unlock()
	block := p.block.Value()
	if !known || block == nil {
		return
	}
	block.mu.Lock()
	defer block.mu.Unlock()
	h := &block.handles[p.at]
	h.ended, h.result, h.err = true, r, err
	if h.done != nil {
		close(h.done)
	}
}

// Wait waits until the send is delivered, and returns what the server made of it. The error is a *[DeadError] if it was given up, that of ctx, or
// of the queue if that has ended: then the send is still on disk.
func (h *Handle) Wait(ctx context.Context) (client.Result, error) {
	h.block.mu.Lock()
	if h.done == nil {
		h.done = make(chan struct{})
		if h.ended {
			close(h.done)
		}
	}
	done := h.done
	h.block.mu.Unlock()
	select {
	case <-done:
		return h.result, h.err
	case <-ctx.Done():
		return client.Result{}, ctx.Err()
	case <-h.queue.ended:
	case <-h.queue.closing.Done():
	}
	select {
	case <-done:
		return h.result, h.err
	default:
	}
	if err := h.queue.fatal(); err != nil {
		return client.Result{}, err
	}
	return client.Result{}, ErrClosed
}
