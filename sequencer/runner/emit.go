package runner

import (
	"context"
	"errors"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lease"
)

// emitAll sends the outbox to the message log until folding has ended and the
// outbox is empty, or drain has passed since.
func (p *Partition) emitAll(ctx context.Context, folded <-chan struct{}, drain time.Duration) error {
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
	for {
		sent, err := p.Emit()
		if errors.Is(err, ErrNotOwner) {
			return err
		}
		if err != nil && emitCtx.Err() == nil {
			if err := p.resume(emitCtx, err); err != nil {
				return err
			}
			continue
		}
		if sent > 0 {
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
			p.Logger.Warn("stopped with records not yet in the message log; they will be derived again", "records", last-acked)
			return nil
		}
	}
}

// Emit sends the next chunk, if there is one to send, and says of how many
// records it was. An error says that the chain is broken, and Resume must follow.
func (p *Partition) Emit() (int, error) {
	var err error
	if p.chunk, err = p.outbox.take(p.chunk[:0]); err != nil {
		return 0, err
	}
	return len(p.chunk), p.send(p.chunk)
}

// send appends a chunk to the message log and asks for the outcome of its last
// record, which speaks for all. A process that was paused may find here, before
// its context has ended, that its lease has.
func (p *Partition) send(chunk []Output) error {
	if len(chunk) > 0 && !p.MayWrite() {
		return ErrNotOwner
	}
	for i := range chunk {
		if err := p.Logs.Append(&chunk[i], i == len(chunk)-1); err != nil {
			return err
		}
	}
	return nil
}

// Resume reads the message log's tail and goes on from there. It says again where
// the tail could not be read.
func (p *Partition) Resume(ctx context.Context) (again bool, err error) {
	ackedBefore, _, _ := p.outbox.state()
	end, err := p.Logs.OutputTail(ctx)
	if err != nil {
		return true, err
	}
	return false, p.outbox.rewind(end, ackedBefore)
}

// resume goes on after a refusal, a time-out or a failed publish: never blindly,
// but from the tail that the message log's leader reports.
func (p *Partition) resume(ctx context.Context, cause error) error {
	p.Metrics.resumed.Inc()
	p.Logger.Warn("the message log did not take what was sent; going on from its tail", "error", cause)
	for attempt := 0; ; attempt++ {
		again, err := p.Resume(ctx)
		if !again {
			return err
		}
		if attempt == 0 && ctx.Err() == nil {
			p.Logger.Warn("the message log's tail cannot be read; trying on", "error", err)
		}
		if !Pause(ctx, attempt) {
			return nil
		}
	}
}
