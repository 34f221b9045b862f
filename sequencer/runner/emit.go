package runner

import (
	"context"
	"errors"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// The pauses before the message log is asked or sent to again.
const (
	resumePauseMin = 50 * time.Millisecond
	resumePauseMax = 5 * time.Second
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

	e := &emitter{Partition: p, silence: time.NewTimer(p.cfg.OutputAckTimeout), backoff: lifecycle.Backoff{Min: resumePauseMin, Max: resumePauseMax}}
	defer e.silence.Stop()
	for {
		sent, err := e.Emit()
		if errors.Is(err, ErrNotOwner) {
			return err
		}
		if err != nil && emitCtx.Err() == nil {
			if err := e.resume(emitCtx, err); err != nil {
				return err
			}
			continue
		}
		if sent > 0 {
			continue
		}
		acked, inFlight, last := e.outbox.state()
		ended := folded
		if acked < last {
			ended = nil // not before the outbox is empty
		}
		e.listen(acked, inFlight)
		select {
		case <-e.outbox.change:
		case <-e.silence.C:
			if inFlight > 0 {
				if err := e.resume(emitCtx, context.DeadlineExceeded); err != nil {
					return err
				}
			}
		case <-ended:
			return nil
		case <-emitCtx.Done():
			if last > acked {
				e.Logger.Warn("stopped with records not yet in the message log; they will be derived again", "records", last-acked)
			}
			return nil
		}
	}
}

// Emit sends the next chunk, if there is one to send, and returns its number of
// records. After an error the chain is broken, and Resume must follow.
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
func (p *Partition) send(chunk []Derived) error {
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

// Resume reads the message log's tail and continues from there. again is set if the
// tail could not be read.
func (p *Partition) Resume(ctx context.Context) (again bool, err error) {
	ackedBefore, _, _ := p.outbox.state()
	end, err := p.Logs.OutputTail(ctx, p.since)
	if err != nil {
		return true, err
	}
	return false, p.outbox.rewind(end, ackedBefore)
}

// emitter is what emitting remembers from one chunk to the next.
type emitter struct {
	*Partition
	silence   *time.Timer // how long there may be no word of what is in flight
	listening bool        // something was in flight at the last look
	heard     uint64      // acknowledged then

	backoff   lifecycle.Backoff
	resumedAt uint64 // acknowledged after the last resume
	vain      int    // resumes on end that found nothing more acknowledged
}

// listen restarts the timer if the message log has taken more, or if
// something is in flight again. A look for any other reason leaves it running: sends
// that keep coming must not hide a log that does not answer.
func (e *emitter) listen(acked uint64, inFlight int) {
	if inFlight > 0 && (!e.listening || acked != e.heard) {
		e.silence.Reset(e.cfg.OutputAckTimeout)
	}
	e.listening, e.heard = inFlight > 0, acked
}

// resume continues after a refusal, a time-out or a failed publish: never blindly,
// but from the tail that the message log's leader reports.
func (e *emitter) resume(ctx context.Context, cause error) error {
	e.Metrics.resumed.Inc()
	e.Logger.Warn("the message log did not take what was sent; resuming from its tail", "error", cause)
	e.listening = false // nothing is in flight after the tail
	for attempt := 1; ; attempt++ {
		again, err := e.Resume(ctx)
		if err == nil {
			e.pauseInVain(ctx)
			return nil
		}
		if !again {
			return err
		}
		if attempt == 1 && ctx.Err() == nil {
			e.Logger.Warn("cannot read the message log's tail; retrying", "error", err)
		}
		if e.backoff.Wait(ctx, attempt) != nil {
			return nil //nolint:nilerr // emitting ends with ctx; what is not handed over is derived again
		}
	}
}

// pauseInVain waits before the same records are sent again, longer each time: a
// refusal may last, as that of a stream which is full or sealed does.
func (e *emitter) pauseInVain(ctx context.Context) {
	acked, _, _ := e.outbox.state()
	if acked > e.resumedAt {
		e.resumedAt, e.vain = acked, 0
		return
	}
	if e.backoff.Wait(ctx, e.vain+1) == nil {
		e.vain++
	}
}

// Derive appends the record of the message log that a record of the write-ahead log became, and returns how many messages it holds: the
// state is that after it, and the effects are those of its sends. Nothing else decides what is in it.
func Derive(dst []byte, state *fold.State, effects []fold.Effect) (record []byte, messages int) {
	for i := range effects {
		if effects[i].PartitionSeq != 0 {
			messages++
		}
	}
	dst = message.AppendBatchHead(dst, state.PartitionSeq()-uint64(messages)+1, state.LastID())
	for i := range effects {
		if e := &effects[i]; e.PartitionSeq != 0 {
			dst = message.AppendBatchMessage(dst, e.Send, e.Identity)
		}
	}
	return dst, messages
}
