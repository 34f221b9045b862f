package sequencer

import (
	"context"
	"fmt"
	"time"
)

// keepInterval is how often lag is measured and the logs are looked after.
const keepInterval = 5 * time.Second

// stallTicks is the number of looks without progress, while there is something to
// read, after which reading starts again: consumers have been seen to stall.
const stallTicks = 3

// keep takes checkpoints, trims the write-ahead log, measures lag, and notices a
// reader that has stalled or a message log that lost its tail while nobody sent.
func (p *partition) keep(ctx context.Context) error {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	metas, err := p.checkpoints.List(ctx)
	if err != nil {
		return err
	}
	k := keeper{partition: p, metas: metas}
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

type keeper struct {
	*partition
	metas    []checkpointMeta // kept, newest first
	lastSeen uint64           // walSeq at the last tick
	stalled  int              // ticks without progress
}

func (k *keeper) tick(ctx context.Context) error {
	if err := k.measure(ctx); err != nil {
		return err
	}
	if len(k.metas) > 0 {
		k.metrics.checkpointAge.Set(k.now().Sub(k.metas[0].TakenAt).Seconds())
	}
	if !k.due() {
		return nil
	}
	if err := k.checkpoint(ctx); err != nil {
		if ctx.Err() != nil || permanent(err) {
			return err
		}
		// Recovery reads a longer tail until one succeeds; nothing is lost.
		k.metrics.checkpointsFailed.Inc()
		k.log.Error("checkpoint failed; trying again", "error", err)
	}
	return nil
}

// measure sets the lag gauges and checks for progress. A broker that does not
// answer is not an error here: whoever needs it next will say so.
func (k *keeper) measure(ctx context.Context) error {
	wal, err := k.logs.WALBounds(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	ackedBefore, inFlight, last := k.outbox.state()
	end, err := k.logs.OutputTail(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if end.Seq < ackedBefore {
		return fmt.Errorf("%w: it ends at %d, and had acknowledged %d", errOutputLost, end.Seq, ackedBefore)
	}
	k.mu.Lock()
	walSeq, channels, entries := k.state.WALSeq(), k.state.Channels(), k.state.DedupEntries()
	k.mu.Unlock()
	k.metrics.channels.Set(float64(channels))
	k.metrics.dedupEntries.Set(float64(entries))
	k.metrics.walLag.Set(float64(wal.Last - min(walSeq, wal.Last)))
	k.metrics.outputLag.Set(float64(last - ackedBefore))
	if walSeq >= wal.Last || walSeq != k.lastSeen || inFlight > 0 {
		k.lastSeen, k.stalled = walSeq, 0
		return nil
	}
	if k.stalled++; k.stalled >= stallTicks {
		return fmt.Errorf("%w: %d records to read, none came for %s", errReadAgain, wal.Last-walSeq, stallTicks*keepInterval)
	}
	return nil
}

// due says whether a checkpoint should be taken: there is something new, and the
// newest is old enough to be the one that survives a power loss with the message
// log that it needs.
func (k *keeper) due() bool {
	k.mu.Lock()
	walSeq := k.state.WALSeq()
	k.mu.Unlock()
	if len(k.metas) == 0 {
		return walSeq > 0
	}
	age := k.now().Sub(k.metas[0].TakenAt)
	return walSeq > k.metas[0].WALSeq && (age >= k.cfg.CheckpointInterval || age < 0)
}

// checkpoint stores the state, once the message log has everything up to it, and
// trims the write-ahead log behind the older kept checkpoint.
func (k *keeper) checkpoint(ctx context.Context) error {
	start := k.now()
	k.mu.Lock()
	snapshot := k.state.Snapshot()
	k.mu.Unlock()
	k.metrics.snapshotSeconds.Observe(k.now().Sub(start).Seconds())
	if err := k.outbox.waitAcked(ctx, snapshot.Output()); err != nil {
		return err
	}
	// Its age counts from when the message log had it all.
	metas, err := k.checkpoints.Save(ctx, snapshot, k.now())
	if err != nil {
		return err
	}
	k.metas = metas
	k.metrics.checkpointBytes.Set(float64(metas[0].Bytes))
	k.metrics.checkpointSeconds.Observe(k.now().Sub(start).Seconds())
	if len(metas) < 2 || metas[0].TakenAt.Sub(metas[1].TakenAt) < durableHorizon {
		return nil
	}
	return k.logs.TrimWAL(ctx, metas[1].WALSeq+1)
}
