package runner

import (
	"context"
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// keepInterval is how often lag is measured and the logs are looked after.
const keepInterval = 5 * time.Second

// stallTicks is the number of looks without progress, while there is something to
// read, after which reading starts again: consumers have been seen to stall.
const stallTicks = 3

// keep takes checkpoints, trims the write-ahead log, measures lag, and notices a
// reader that has stalled or a message log that lost its tail while nobody sent.
func (p *Partition) keep(ctx context.Context) error {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	k, err := p.Keeper(ctx)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ticker.C:
			if err := k.tick(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Keeper does the housekeeping of a partition that has recovered.
func (p *Partition) Keeper(ctx context.Context) (*Keeper, error) {
	metas, err := p.Checkpoints.List(ctx)
	return &Keeper{Partition: p, metas: metas}, err
}

// Keeper takes checkpoints and looks after the logs, step by step.
type Keeper struct {
	*Partition
	metas    []CheckpointMeta // kept, newest first
	lastSeen uint64           // walSeq at the last tick
	stalled  int              // ticks without progress
	filling  bool             // the write-ahead log is a quarter full
}

func (k *Keeper) tick(ctx context.Context) error {
	if err := k.Measure(ctx); err != nil {
		return err
	}
	if len(k.metas) > 0 {
		k.Metrics.checkpointAge.Set(k.Now().Sub(k.metas[0].TakenAt).Seconds())
	}
	if !k.Due() {
		return nil
	}
	if err := k.Checkpoint(ctx); err != nil {
		if ctx.Err() != nil || Permanent(err) {
			return err
		}
		// Recovery reads a longer tail until one succeeds; nothing is lost.
		k.Metrics.checkpointsFailed.Inc()
		k.Logger.Error("checkpoint failed; trying again", "error", err)
	}
	return nil
}

// Measure sets the lag gauges and checks for progress. A broker that does not
// answer is not an error here: whoever needs it next will say so.
func (k *Keeper) Measure(ctx context.Context) error {
	wal, err := k.Logs.WALBounds(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	ackedBefore, inFlight, last := k.outbox.state()
	end, err := k.Logs.OutputTail(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if end.Seq < ackedBefore {
		return fmt.Errorf("%w: it ends at %d, and had acknowledged %d", errOutputLost, end.Seq, ackedBefore)
	}
	k.mu.Lock()
	walSeq, channels, entries := k.state.WALSeq(), k.state.Channels(), k.state.DedupEntries()
	k.mu.Unlock()
	k.Metrics.channels.Set(float64(channels))
	k.Metrics.dedupEntries.Set(float64(entries))
	k.filling = wal.BytesMax > 0 && wal.Bytes > wal.BytesMax/4
	k.Metrics.walLag.Set(float64(wal.Last - min(walSeq, wal.Last)))
	k.Metrics.outputLag.Set(float64(last - ackedBefore))
	if walSeq >= wal.Last || walSeq != k.lastSeen || inFlight > 0 {
		k.lastSeen, k.stalled = walSeq, 0
		return nil
	}
	if k.stalled++; k.stalled >= stallTicks {
		return fmt.Errorf("%w: %d records to read, none came for %s", errReadAgain, wal.Last-walSeq, stallTicks*keepInterval)
	}
	return nil
}

// Due says whether a checkpoint should be taken: there is something new, and the
// newest is old enough to be the one that survives a power loss with the message
// log that it needs.
func (k *Keeper) Due() bool {
	k.mu.Lock()
	walSeq := k.state.WALSeq()
	k.mu.Unlock()
	if len(k.metas) == 0 {
		return walSeq > 0
	}
	interval := k.cfg.CheckpointInterval
	if k.filling { // trim it sooner
		interval = durableHorizon
	}
	age := k.Now().Sub(k.metas[0].TakenAt)
	return walSeq > k.metas[0].WALSeq && (age >= interval || age < 0)
}

// Checkpoint stores the state, once the message log has everything up to it, and
// trims the write-ahead log behind the older kept checkpoint.
func (k *Keeper) Checkpoint(ctx context.Context) error {
	snapshot := k.Snapshot()
	if err := k.outbox.waitAcked(ctx, snapshot.Output()); err != nil {
		return err
	}
	return k.Store(ctx, snapshot)
}

// Snapshot takes the state as it is now; folding stands still meanwhile.
func (k *Keeper) Snapshot() *fold.Snapshot {
	start := k.Now()
	k.mu.Lock()
	snapshot := k.state.Snapshot()
	k.mu.Unlock()
	k.Metrics.snapshotSeconds.Observe(k.Now().Sub(start).Seconds())
	return snapshot
}

// Store makes a snapshot a checkpoint. The message log must have everything up to
// it: a checkpoint's age counts from now, and by its age is judged what a power
// loss can take.
func (k *Keeper) Store(ctx context.Context, snapshot *fold.Snapshot) error {
	if acked, _, _ := k.outbox.state(); acked < snapshot.Output() {
		return fmt.Errorf("%w: checkpoint of message %d, and the message log has %d", ErrInvariant, snapshot.Output(), acked)
	}
	if !k.MayWrite() {
		return ErrNotOwner
	}
	start := k.Now()
	metas, err := k.Checkpoints.Save(ctx, snapshot, start)
	if err != nil {
		return err
	}
	k.metas = metas
	k.Metrics.checkpointBytes.Set(float64(metas[0].Bytes))
	k.Metrics.checkpointSeconds.Observe(k.Now().Sub(start).Seconds())
	if len(metas) < 2 || metas[0].TakenAt.Sub(metas[1].TakenAt) < durableHorizon {
		return nil
	}
	return k.Logs.TrimWAL(ctx, metas[1].WALSeq+1)
}
