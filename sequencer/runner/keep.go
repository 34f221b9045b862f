package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
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
func (p *Partition) Keeper() *Keeper {
	k := &Keeper{Partition: p}
	k.take(p.claimed)
	return k
}

// Keeper takes checkpoints and looks after the logs, step by step.
type Keeper struct {
	*Partition
	seen     Kept             // what is stored, as last seen
	known    bool             // seen is what is stored, but for what others did since
	kept     []keptCheckpoint // of seen, those that are not damaged; newest first
	lastSeen uint64           // walSeq at the last tick
	stalled  int              // ticks without progress
	walFirst uint64           // where the write-ahead log starts
	filling  bool             // it is a quarter full
	ages     walAges
	clockOff lifecycle.Repeated
}

func (k *Keeper) tick(ctx context.Context) error {
	if err := k.Measure(ctx); err != nil {
		return err
	}
	err := k.Look(ctx)
	if err == nil && k.Due() {
		err = k.Checkpoint(ctx)
	}
	if err == nil {
		err = k.Trim(ctx)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil || Permanent(err) || errors.Is(err, errOutputLost) || errors.Is(err, errOutputAhead) || errors.Is(err, errReadAgain):
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
	asked := k.Now()
	wal, err := k.Logs.WALBounds(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	k.compareClocks(asked, k.Now(), wal.Time)
	ackedBefore, _, derived := k.outbox.state()
	k.mu.Lock()
	walSeq, channels, entries := k.state.WALSeq(), k.state.Channels(), k.state.DedupEntries()
	k.mu.Unlock()
	k.Metrics.channels.Set(float64(channels))
	k.Metrics.dedupEntries.Set(float64(entries))
	k.walFirst = wal.First
	k.filling = wal.BytesMax > 0 && wal.Bytes > wal.BytesMax/4
	k.Metrics.walLag.Set(float64(wal.Last - min(walSeq, wal.Last)))
	k.Metrics.walAge.Set(k.ages.oldest(k.Now(), walSeq, wal.Last).Seconds())
	k.Metrics.outputLag.Set(float64(k.outbox.waits()))
	k.showAge()
	// Only now, since the message log may be what does not answer.
	end, err := k.Logs.OutputTail(ctx, k.since)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	k.Metrics.outputMissing.Set(float64(end.Missing))
	if err := end.has(ackedBefore); err != nil {
		return err
	}
	// What was derived since may be there already, so that is asked only now.
	if _, _, derivedNow := k.outbox.state(); end.Seq > derivedNow {
		return fmt.Errorf("%w: it ends at %d, past record %d derived here", errOutputAhead, end.Seq, derivedNow)
	}
	// Where the outbox holds something, folding may be waiting for it and not for the reader.
	if walSeq >= wal.Last || walSeq != k.lastSeen || ackedBefore < derived {
		k.lastSeen, k.stalled = walSeq, 0
		return nil
	}
	if k.stalled++; k.stalled >= stallTicks {
		return fmt.Errorf("%w: %d records to read, none came for %s", errReadAgain, wal.Last-walSeq, stallTicks*keepInterval)
	}
	return nil
}

// compareClocks shows how far the broker's clock is from the process's own and behind the IDs.
func (k *Keeper) compareClocks(before, after, broker time.Time) {
	if broker.IsZero() {
		return
	}
	offset := k.clock.look(before, after, broker)
	k.Metrics.brokerClockOffset.Set(offset.Seconds())
	k.mu.Lock()
	last := k.state.LastID()
	k.mu.Unlock()
	ahead := 0.0
	if last != 0 {
		ahead = max(float64(last.UnixMilli()-broker.UnixMilli())/1000, 0)
	}
	k.Metrics.idClockAhead.Set(ahead)
	switch off := offset.Abs() > clockOffMax; {
	case off:
		if skipped, due := k.clockOff.Due("broker's clock"); due {
			k.Logger.Warn("the broker's clock is not this process's: it is wrong, or this machine's is, or this machine slept",
				"offset", offset.Round(time.Millisecond), "broker_time", broker, "skipped", skipped)
		}
	case k.clockOff.Over():
		k.Logger.Info("the broker's clock agrees with this process's again", "offset", offset.Round(time.Millisecond))
	}
}

// walAges reckons how old the oldest record is that is not folded, from looks at the write-ahead log's end: a record
// came between two looks, and is taken to have come at the second. The broker knows it exactly, but would have to be asked
// for the record.
type walAges struct {
	looks []walLook // by time; those whose records are all folded are gone
}

// walLook says where the log ended at a time.
type walLook struct {
	at   time.Time
	last uint64
}

// looksMax bounds what is kept. Beyond it the newest look is replaced, so that the oldest, which counts, stays.
const looksMax = 1024

// oldest is told the log's end and how far it is folded, and gives the age of the first record behind that; 0 where there is none.
func (w *walAges) oldest(now time.Time, folded, last uint64) time.Duration {
	done := 0
	for done < len(w.looks) && w.looks[done].last <= folded {
		done++
	}
	w.looks = w.looks[done:]
	if last <= folded {
		return 0
	}
	switch n := len(w.looks); {
	case n > 0 && w.looks[n-1].last == last: // nothing new
	case n < looksMax:
		w.looks = append(w.looks, walLook{at: now, last: last})
	default:
		w.looks[n-1] = walLook{at: now, last: last}
	}
	return now.Sub(w.looks[0].at)
}
