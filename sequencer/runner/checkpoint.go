package runner

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// keptCheckpoint is a stored checkpoint and since when this keeper has seen the
// message log to reach it, by one and the same record; zero if it does not yet.
// What another owner saw is not asked: a power loss may have taken the messages since,
// and they may have been written again a moment ago, or its clock may be off. An owner that
// has lost its lease may write them again while this keeper looks, too, so that the
// log is never seen to be shorter: by the time of the record it is noticed.
type keptCheckpoint struct {
	CheckpointMeta
	reached time.Time
	written time.Time // when the message log took the record, by its own clock
}

// Look brings up to date what is known of the checkpoints that are kept: which
// they are, where storing one did not end well or another has made a claim, and
// whether the message log reaches them.
func (k *Keeper) Look(ctx context.Context) error {
	if !k.known {
		kept, err := k.claim(ctx)
		if err != nil {
			return err
		}
		k.take(kept)
	}
	k.showAge()
	if slices.ContainsFunc(k.kept, func(c keptCheckpoint) bool { return c.reached.IsZero() }) {
		return k.seeReached(ctx)
	}
	return nil
}

// seeReached brings up to date since when the message log reaches each checkpoint. It reads a record for each.
func (k *Keeper) seeReached(ctx context.Context) error {
	for i := range k.kept {
		c := &k.kept[i]
		written, ok, err := k.Logs.OutputTime(ctx, c.WALSeq)
		switch {
		case err != nil:
			return err
		case !ok:
			c.reached = time.Time{}
		case c.reached.IsZero() || (!written.IsZero() && !written.Equal(c.written)):
			c.reached, c.written = k.Now(), written
		}
	}
	return nil
}

func (k *Keeper) showAge() {
	if len(k.kept) > 0 {
		k.Metrics.checkpointAge.Set(k.Now().Sub(k.kept[0].TakenAt).Seconds())
	}
}

// take takes over what is stored, of which nothing is known yet. Those that
// recovery found damaged do not count.
func (k *Keeper) take(kept Kept) {
	k.seen, k.known, k.kept = kept, true, nil
	for _, meta := range kept.Metas {
		if !slices.ContainsFunc(k.damaged, meta.same) {
			k.kept = append(k.kept, keptCheckpoint{CheckpointMeta: meta})
		}
	}
}

// settled reports whether a checkpoint surely survives a power loss together with the
// messages that it needs.
func (k *Keeper) settled(c keptCheckpoint) bool {
	return !c.reached.IsZero() && k.Now().Sub(c.reached) >= durableHorizon
}

// newestSettled is nil if none is.
func (k *Keeper) newestSettled() *CheckpointMeta {
	if i := slices.IndexFunc(k.kept, k.settled); i >= 0 {
		return &k.kept[i].CheckpointMeta
	}
	return nil
}

// Due reports whether a checkpoint should be taken: there is something new, the
// newest is old enough, and one is settled, which can be kept beside the new one.
// While the write-ahead log is filling it need not be new: a full log takes nothing
// new, and only the next checkpoint allows to trim it up to the newest.
func (k *Keeper) Due() bool {
	if !k.known {
		return false
	}
	k.mu.Lock()
	walSeq := k.state.WALSeq()
	k.mu.Unlock()
	if len(k.seen.Metas) > 0 && walSeq < k.seen.Metas[0].WALSeq {
		return false // recovered from an older one, or from none, and not yet past the newest
	}
	if len(k.kept) == 0 {
		return walSeq > 0
	}
	beside := k.newestSettled()
	if beside == nil {
		return false
	}
	interval := k.cfg.CheckpointInterval
	needed := walSeq > k.kept[0].WALSeq
	if k.filling { // trim it sooner
		interval = durableHorizon
		needed = needed || (beside.WALSeq >= k.walFirst && (len(k.kept) == 1 || k.kept[1].WALSeq < beside.WALSeq))
	}
	age := k.Now().Sub(k.kept[0].TakenAt)
	return needed && (age >= interval || age < 0)
}

// Checkpoint stores the state, once the message log has everything up to it.
func (k *Keeper) Checkpoint(ctx context.Context) error {
	snapshot := k.Snapshot()
	if err := k.awaitOutput(ctx, snapshot.WALSeq()); err != nil {
		return err
	}
	return k.Store(ctx, snapshot)
}

// awaitOutput waits until the message log has everything up to a record. It may take nothing for as long as it likes, so the lag is
// measured meanwhile: that is when an operator looks at it.
func (k *Keeper) awaitOutput(ctx context.Context, streamSeq uint64) error {
	reached := k.outbox.reached(streamSeq)
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-reached:
			return nil
		case <-ticker.C:
			if err := k.Measure(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
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
// it.
func (k *Keeper) Store(ctx context.Context, snapshot *fold.Snapshot) error {
	acked, _, _ := k.outbox.state()
	if acked < snapshot.WALSeq() {
		return fmt.Errorf("%w: checkpoint of record %d, and the message log has %d", ErrInvariant, snapshot.WALSeq(), acked)
	}
	if err := k.sure(ctx); err != nil {
		return err
	}
	start := k.Now()
	beside := k.newestSettled()
	if beside == nil && len(k.kept) > 0 {
		return errUnsettled
	}
	k.known = false // until it is known how this ended
	kept, err := k.Checkpoints.Save(ctx, snapshot, start, k.seen, beside)
	if err != nil {
		return err
	}
	before := k.kept
	k.take(kept)
	for i, c := range k.kept {
		if j := slices.IndexFunc(before, func(b keptCheckpoint) bool { return b.same(c.CheckpointMeta) }); j >= 0 {
			k.kept[i] = before[j]
		}
	}
	k.Metrics.checkpointBytes.Set(float64(kept.Metas[0].Bytes))
	k.Metrics.checkpointSeconds.Observe(k.Now().Sub(start).Seconds())
	return nil
}

// sure asserts, before what cannot be taken back, that the message log has everything up to
// what it had acknowledged, since a power loss may have taken a part unnoticed, and that the lease
// stands. Whether a checkpoint is settled is to be asked only after it.
func (k *Keeper) sure(ctx context.Context) error {
	acked, _, _ := k.outbox.state()
	if err := k.whole(ctx, acked); err != nil {
		return err
	}
	if err := k.seeReached(ctx); err != nil {
		return err
	}
	if !k.MayWrite() {
		return ErrNotOwner
	}
	return nil
}

// Trim drops what no recovery needs of the write-ahead log: what lies before the
// older of two checkpoints, if that one is settled.
func (k *Keeper) Trim(ctx context.Context) error {
	if !k.known || len(k.kept) < 2 || !k.settled(k.kept[1]) || k.kept[1].WALSeq < k.walFirst {
		return nil
	}
	first := k.kept[1].WALSeq + 1
	if err := k.sure(ctx); err != nil {
		return err
	}
	if !k.settled(k.kept[1]) {
		return errUnsettled
	}
	// If no other owner has made a claim since, it is surely settled, and stays so.
	kept, err := k.Checkpoints.List(ctx)
	if err != nil {
		return err
	}
	if kept.Version != k.seen.Version {
		k.known = false
		return nil
	}
	if err := k.Logs.TrimWAL(ctx, first); err != nil {
		return err
	}
	k.walFirst = first
	return nil
}
