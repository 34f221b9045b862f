package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	k := p.Keeper()
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
func (p *Partition) Keeper() *Keeper { return &Keeper{Partition: p} }

// Keeper takes checkpoints and looks after the logs, step by step.
type Keeper struct {
	*Partition
	kept     []keptCheckpoint // newest first
	known    bool             // kept is what is stored
	lastSeen uint64           // walSeq at the last tick
	stalled  int              // ticks without progress
	filling  bool             // the write-ahead log is a quarter full
}

// keptCheckpoint is a stored checkpoint and since when this keeper has seen the
// message log to reach it; zero where it does not yet. What another owner saw is
// not asked: a power loss may have taken the messages since, and they may have been
// written again a moment ago, or its clock may be off.
type keptCheckpoint struct {
	CheckpointMeta
	reached time.Time
}

func (k *Keeper) tick(ctx context.Context) error {
	if err := k.Measure(ctx); err != nil {
		return err
	}
	err := k.Look(ctx)
	if err == nil && k.Due() {
		err = k.Checkpoint(ctx)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil || Permanent(err) || errors.Is(err, errOutputLost):
		return err
	default:
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

// Look brings up to date what is known of the checkpoints that are kept: which
// they are, where storing one did not end well, and whether the message log
// reaches them.
func (k *Keeper) Look(ctx context.Context) error {
	if !k.known {
		metas, err := k.Checkpoints.List(ctx)
		if err != nil {
			return err
		}
		k.take(metas)
	}
	acked, _, _ := k.outbox.state()
	for i := range k.kept {
		if c := &k.kept[i]; c.reached.IsZero() && c.Output <= acked {
			c.reached = k.Now()
		}
	}
	if len(k.kept) > 0 {
		k.Metrics.checkpointAge.Set(k.Now().Sub(k.kept[0].TakenAt).Seconds())
	}
	return nil
}

// take takes over what is stored. What was known of those that stay, stays;
// those that recovery found damaged do not count.
func (k *Keeper) take(metas []CheckpointMeta) {
	before := k.kept
	k.kept, k.known = nil, true
	for _, meta := range metas {
		if slices.ContainsFunc(k.damaged, meta.same) {
			continue
		}
		c := keptCheckpoint{CheckpointMeta: meta}
		if i := slices.IndexFunc(before, func(b keptCheckpoint) bool { return b.same(meta) }); i >= 0 {
			c.reached = before[i].reached
		}
		k.kept = append(k.kept, c)
	}
}

// settled is the newest checkpoint that surely survives a power loss together
// with the messages that it needs; nil where none does.
func (k *Keeper) settled() *CheckpointMeta {
	for i := range k.kept {
		if c := &k.kept[i]; !c.reached.IsZero() && k.Now().Sub(c.reached) >= durableHorizon {
			return &c.CheckpointMeta
		}
	}
	return nil
}

// Due says whether a checkpoint should be taken: there is something new, the
// newest is old enough, and one is settled, which can be kept beside the new one.
func (k *Keeper) Due() bool {
	if !k.known {
		return false
	}
	k.mu.Lock()
	walSeq := k.state.WALSeq()
	k.mu.Unlock()
	if len(k.kept) == 0 {
		return walSeq > 0
	}
	interval := k.cfg.CheckpointInterval
	if k.filling { // trim it sooner
		interval = durableHorizon
	}
	age := k.Now().Sub(k.kept[0].TakenAt)
	return walSeq > k.kept[0].WALSeq && (age >= interval || age < 0) && k.settled() != nil
}

// Checkpoint stores the state, once the message log has everything up to it, and
// trims the write-ahead log behind the settled checkpoint that is kept beside it.
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
// it, and still have it now: it may have lost its tail unnoticed.
func (k *Keeper) Store(ctx context.Context, snapshot *fold.Snapshot) error {
	acked, _, _ := k.outbox.state()
	if acked < snapshot.Output() {
		return fmt.Errorf("%w: checkpoint of message %d, and the message log has %d", ErrInvariant, snapshot.Output(), acked)
	}
	end, err := k.Logs.OutputTail(ctx)
	if err != nil {
		return err
	}
	if end.Seq < acked {
		return fmt.Errorf("%w: it ends at %d, and had acknowledged %d", errOutputLost, end.Seq, acked)
	}
	if !k.MayWrite() {
		return ErrNotOwner
	}
	start := k.Now()
	beside := k.settled()
	k.known = false // until it is known how this ended
	metas, err := k.Checkpoints.Save(ctx, snapshot, start, beside)
	if err != nil {
		return err
	}
	k.take(metas)
	k.kept[0].reached = start
	k.Metrics.checkpointBytes.Set(float64(metas[0].Bytes))
	k.Metrics.checkpointSeconds.Observe(k.Now().Sub(start).Seconds())
	if beside == nil {
		return nil
	}
	return k.Logs.TrimWAL(ctx, beside.WALSeq+1)
}
