package sequencer

import (
	"context"
	"errors"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lease"
)

// emitAll sends the outbox to the message log until folding has ended and the
// outbox is empty, or drain has passed since.
func (p *partition) emitAll(ctx context.Context, folded <-chan struct{}, drain time.Duration) error {
	// Emitting outlives ctx, to hand over what is derived.
	emitCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if reason := context.Cause(ctx); errors.Is(reason, lease.ErrExpired) || errors.Is(reason, lease.ErrLost) {
			drain = 0 // another may own the partition by now
		}
		time.AfterFunc(drain, cancel)
	})
	defer stop()

	timer := time.NewTimer(p.cfg.OutputAckTimeout)
	defer timer.Stop()
	var chunk []output
	for {
		var err error
		if chunk, err = p.outbox.take(chunk[:0]); err == nil {
			err = p.send(chunk)
		}
		if errors.Is(err, errNotOwner) {
			return err
		}
		if err != nil && emitCtx.Err() == nil {
			if err := p.resume(emitCtx, err); err != nil {
				return err
			}
			continue
		}
		if len(chunk) > 0 && err == nil {
			continue
		}
		acked, inFlight, last := p.outbox.state()
		ended := folded
		if acked < last {
			ended = nil // not before the outbox is empty
		}
		timer.Reset(p.cfg.OutputAckTimeout)
		select {
		case <-p.outbox.change:
		case <-timer.C:
			if inFlight > 0 {
				if err := p.resume(emitCtx, context.DeadlineExceeded); err != nil {
					return err
				}
			}
		case <-ended:
			return nil
		case <-emitCtx.Done():
			p.log.Warn("stopped with messages not yet in the message log; they will be derived again", "messages", last-acked)
			return nil
		}
	}
}

// send appends a chunk to the message log and asks for the outcome of its last
// message, which speaks for all. A process that was paused may find here, before
// its context has ended, that its lease has.
func (p *partition) send(chunk []output) error {
	if len(chunk) > 0 && !p.mayWrite() {
		return errNotOwner
	}
	for i := range chunk {
		if err := p.logs.Append(&chunk[i], i == len(chunk)-1); err != nil {
			return err
		}
	}
	return nil
}

// resume goes on after a refusal, a time-out or a failed publish: never blindly,
// but from the tail that the message log's leader reports.
func (p *partition) resume(ctx context.Context, cause error) error {
	p.metrics.resumed.Inc()
	p.log.Warn("the message log did not take what was sent; going on from its tail", "error", cause)
	for attempt := 0; ; attempt++ {
		ackedBefore, _, _ := p.outbox.state()
		end, err := p.logs.OutputTail(ctx)
		if err == nil {
			return p.outbox.rewind(end, ackedBefore)
		}
		if ctx.Err() != nil {
			return nil
		}
		if attempt == 0 {
			p.log.Warn("the message log's tail cannot be read; trying on", "error", err)
		}
		if !pause(ctx, attempt) {
			return nil
		}
	}
}
