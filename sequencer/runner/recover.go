package runner

import (
	"context"
	"errors"
	"fmt"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// Recover finds the newest state from which everything that the message log
// lacks can be derived again, and starts the outbox after the log's tail. The
// write-ahead log's end is looked at last: what another owner did meanwhile is then no
// sign that it has lost something. A write-ahead log that lacks a record is refused.
//
// If records are missing from the middle of the message log, as a power loss can leave
// it, the log is cut before the first of them and continues from there.
func (p *Partition) Recover(ctx context.Context) error {
	start := p.Now()
	var err error
	if p.claimed, err = p.claim(ctx); err != nil {
		return err
	}
	asked := p.Now()
	wal, err := p.Logs.WALBounds(ctx)
	if err != nil {
		return err
	}
	if !wal.Time.IsZero() {
		p.clock.look(asked, p.Now(), wal.Time)
	}
	p.since = derivable(p.claimed, wal)
	end, err := p.outputEnd(ctx)
	if err != nil {
		return err
	}
	if wal, err = p.Logs.WALBounds(ctx); err != nil {
		return err
	}
	if end.StreamSeq > wal.Last && end.Found && message.ViewBatch(end.Data, new(message.BatchView)) != nil {
		return &ForeignRecordError{StreamSeq: end.StreamSeq, Found: describe(end.Data), Want: fmt.Sprintf("nothing of it yet, as it ends at record %d", wal.Last)}
	}
	if last := max(end.StreamSeq, end.Beyond); last > wal.Last {
		return fmt.Errorf("%w: the message log was made from record %d, and the write-ahead log ends at %d", ErrMissing, last, wal.Last)
	}
	state, err := p.startingState(ctx, end, wal)
	if err != nil {
		return err
	}
	if err := p.readable(ctx, state); err != nil {
		return err
	}
	if end.Beyond > 0 {
		if end, err = p.cutOutput(ctx, end); err != nil {
			return err
		}
	}
	p.Metrics.outputMissing.Set(float64(end.Missing))
	p.mu.Lock()
	p.state, p.recovered, p.walEnd = state, end, wal.Last
	p.outbox = newOutbox(p.cfg.OutboxMessagesMax, int(p.cfg.OutboxBytesMax), max(end.StreamSeq, state.WALSeq()))
	p.mu.Unlock()
	p.Metrics.recovery.Observe(p.Now().Sub(start).Seconds())
	p.Logs.OnAck(p.outbox.ack)
	p.Logger.Info("recovered the state",
		"from_wal_seq", state.WALSeq(), "wal_last", wal.Last, "message_log_last", end.StreamSeq,
		"channels", state.Channels(), "dedup_entries", state.DedupEntries(), "took", p.Now().Sub(start))
	return nil
}

// readable is ErrMissing if the write-ahead log lacks a record after a state. Whatever comes to a stop while it reads recovers, so this
// tells a record that will never come from a reader that has to begin again.
func (p *Partition) readable(ctx context.Context, state *fold.State) error {
	missing, err := p.Logs.WALMissing(ctx, state.WALSeq()+1)
	if err == nil && missing > 0 {
		err = fmt.Errorf("%w: record %d of the write-ahead log is missing, and the newest state is of record %d", ErrMissing, missing, state.WALSeq())
	}
	return err
}

// outputEnd is the message log's tail. A log that has lost its front, from the oldest record
// that can be derived again on, ends before that.
func (p *Partition) outputEnd(ctx context.Context) (Tail, error) {
	end, err := p.Logs.OutputTail(ctx, p.since)
	if err != nil {
		return Tail{}, err
	}
	lost, err := p.Logs.OutputFrontLost(ctx, p.since)
	if err == nil && lost {
		end = Tail{StreamSeq: p.since - 1, Beyond: max(end.StreamSeq, end.Beyond)}
	}
	return end, err
}

// derivable is the oldest record of the message log that can be derived again: the first
// one after the oldest checkpoint, or 1 while the write-ahead log is whole.
func derivable(kept Kept, wal Bounds) uint64 {
	if wal.First <= 1 || len(kept.Metas) == 0 {
		return 1
	}
	oldest := kept.Metas[0].WALSeq
	for _, meta := range kept.Metas {
		oldest = min(oldest, meta.WALSeq)
	}
	return oldest + 1
}

// cutOutput removes what is beyond a gap of the message log, and returns its tail then.
func (p *Partition) cutOutput(ctx context.Context, end Tail) (Tail, error) {
	p.Logger.Error("records are missing from the message log; cutting it there and deriving the rest again",
		"first_missing", end.StreamSeq+1, "message_log_last", end.Beyond)
	if !p.MayWrite() {
		return Tail{}, ErrNotOwner
	}
	if err := p.Logs.CutOutput(ctx, end.StreamSeq); err != nil {
		return Tail{}, err
	}
	p.Metrics.cuts.Inc()
	after, err := p.Logs.OutputTail(ctx, p.since)
	switch {
	case err != nil:
		return Tail{}, err
	case after.Beyond > 0:
		return Tail{}, fmt.Errorf("%w: record %d is missing again", errOutputLost, after.StreamSeq+1)
	}
	return after, nil
}

// whole is errOutputLost if the message log no longer has everything up to acked, or
// lacks a record before its last one.
func (p *Partition) whole(ctx context.Context, acked uint64) error {
	end, err := p.Logs.OutputTail(ctx, p.since)
	if err != nil {
		return err
	}
	return end.has(acked)
}

// has is errOutputLost if the log does not have everything up to acked, or lacks a record
// before its last one.
func (t Tail) has(acked uint64) error {
	switch {
	case t.StreamSeq < acked:
		return fmt.Errorf("%w: it ends at %d, and had acknowledged %d", errOutputLost, t.StreamSeq, acked)
	case t.Beyond > 0:
		return fmt.Errorf("%w: record %d is missing, and it ends at %d", errOutputLost, t.StreamSeq+1, t.Beyond)
	}
	return nil
}

// claim makes a claim on the checkpoints. A damaged pointer is mended by it.
func (p *Partition) claim(ctx context.Context) (Kept, error) {
	kept, err := p.Checkpoints.Claim(ctx)
	if err == nil && kept.Damaged != nil {
		p.Metrics.pointersDamaged.Inc()
		p.Logger.Error("checkpoint pointer was damaged; wrote it again from the checkpoints that are stored", "error", kept.Damaged, "checkpoints", len(kept.Metas))
	}
	return kept, err
}

// startingState is the newest checkpoint that lies at or before the message log's
// Tail and from which the write-ahead log continues; the empty state if the
// write-ahead log is whole. A log that ends before any checkpoint is another one, or
// has lost its tail: what was answered from the rest must not be given out again.
func (p *Partition) startingState(ctx context.Context, end Tail, wal Bounds) (*fold.State, error) {
	for _, meta := range p.claimed.Metas {
		if meta.WALSeq > wal.Last {
			return nil, fmt.Errorf("%w: checkpoint %s was taken at record %d, and the write-ahead log ends at %d; restore the streams and the checkpoints from one backup",
				ErrMissing, meta.Object, meta.WALSeq, wal.Last)
		}
	}
	var reasons []error
	for _, meta := range p.claimed.Metas {
		if err := usable(meta, end, wal); err != nil {
			p.Logger.Warn("passed over a checkpoint", "object", meta.Object, "wal_seq", meta.WALSeq, "error", err)
			reasons = append(reasons, err)
			continue
		}
		state, err := p.Checkpoints.Load(ctx, meta, p.params)
		if err == nil {
			return state, nil
		}
		if ctx.Err() != nil || !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		p.Metrics.checkpointsDamaged.Inc()
		p.Logger.Warn("a checkpoint is damaged; taking an older state and reading a longer tail", "object", meta.Object, "error", err)
		p.damaged = append(p.damaged, meta)
		reasons = append(reasons, err)
	}
	if wal.First > 1 {
		return nil, fmt.Errorf("%w: the write-ahead log starts at record %d, the message log ends at %d, and no checkpoint joins them: %v; restore the stream or the checkpoints from a backup",
			ErrMissing, wal.First, end.StreamSeq, reasons)
	}
	return fold.New(p.params)
}

func usable(meta CheckpointMeta, end Tail, wal Bounds) error {
	switch {
	case meta.WALSeq+1 < wal.First:
		return fmt.Errorf("it was taken at record %d, and the write-ahead log starts at %d", meta.WALSeq, wal.First)
	case meta.WALSeq > end.StreamSeq:
		return fmt.Errorf("it was taken at record %d, and the message log ends at %d", meta.WALSeq, end.StreamSeq)
	}
	return nil
}
