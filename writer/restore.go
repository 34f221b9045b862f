package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// restoreWindow is how many places one question is about, and restoreRange how many of these are read from the message log if the
	// table has not all of them.
	restoreWindow = 1 << 20
	restoreRange  = 16_384
	// restoreInterval is how often rows are counted if nothing tells that some are lost.
	restoreInterval = time.Hour
	// restorePace: after the message log was read, the restorer rests for as many times as long as that took.
	restorePace = 3
	// deleteMargin is how much later than a statement a message may have been accepted, by other clocks, and have been deleted by it.
	deleteMargin = time.Minute
)

// rows is what the restorer needs of ClickHouse.
type rows interface {
	LastDelete(ctx context.Context) (deleted, now time.Time, err error)
	CountPlaces(ctx context.Context, s clickhouse.Span, size uint64) (map[uint64]uint64, error)
	CountLasting(ctx context.Context, partition int, last uint64) (uint64, error)
}

// tally is the record of how many rows a partition had when they were last counted, in the bucket of the writer. By it a loss is noticed
// of rows that the message log does not hold any more.
type tally struct {
	Version int `json:"version"`
	// Rows is how many places up to Last had a row that never expires, At when that was, by ClickHouse's clock.
	Last uint64    `json:"last"`
	Rows uint64    `json:"rows"`
	At   time.Time `json:"at"`
	// Missing counts rows that were lost and could not be inserted again, ever.
	Missing uint64 `json:"missing,omitempty"`
}

const tallyVersion = 1

// tallyKey is the key of a partition's tally in the bucket of the writer.
func tallyKey(partition int) string { return fmt.Sprintf("rows.%d", partition) }

// readTally reads a partition's tally; it is zero if there is none. A damaged one is as good as none: it is made again.
func readTally(ctx context.Context, kv bucket, partition int) (t tally, revision uint64, err error) {
	entry, err := kv.Get(ctx, tallyKey(partition))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return tally{}, 0, nil
	}
	if err != nil {
		return tally{}, 0, fmt.Errorf("read %s: %w", tallyKey(partition), err)
	}
	if json.Unmarshal(entry.Value(), &t) != nil || t.Version != tallyVersion {
		t = tally{}
	}
	return t, entry.Revision(), nil
}

// restorer notices that the table has lost rows of a partition, and inserts them again from the message log.
//
// It counts: at the start, once the partition is being written; when ClickHouse shows a sign of a loss (a part that was set aside, fewer
// rows, another table); and every hour. It counts only up to the writer's position, by ranges, and reads the message log only for the
// ranges of which the table has not all. These rows are missing by intent, and stay so:
//
//   - of messages that have expired, and of dead letters;
//   - of messages that were accepted before the latest DELETE that ClickHouse remembers: which of them that has taken is not known.
//
// All others are inserted again, whatever took them: also after TRUNCATE, DROP PARTITION and DETACH, which look like a loss.
//
// What cannot be inserted again is noticed by the tally: it is logged, counted in the record and shown (rows_missing) until a person
// removes the record.
type restorer struct {
	r      *runner
	rows   rows
	kv     bucket
	turn   chan struct{} // holds a token while a partition of the process is counted
	alarm  chan struct{} // a sign of a loss was seen; holds one
	filler *Filler
	// explained is how many places of a range, by its first, have no row by intent.
	explained map[uint64]uint64
	letters   map[Letter]bool
}

// run counts until ctx ends.
func (o *restorer) run(ctx context.Context) {
	for o.r.status.Load().state != stateRunning {
		if lifecycle.Pause(ctx, o.r.timing.watch) != nil {
			return
		}
	}
	timer := time.NewTimer(restoreInterval)
	defer timer.Stop()
	for attempt := 0; ; {
		err := o.inTurn(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			o.r.log.Warn("cannot count the rows of the table; retrying", "error", err)
			if o.r.timing.backoff(ctx, attempt, err) != nil {
				return
			}
			attempt++
			continue
		}
		attempt = 0
		timer.Reset(restoreInterval)
		select {
		case <-ctx.Done():
			return
		case <-o.alarm:
		case <-timer.C:
		}
	}
}

func (o *restorer) inTurn(ctx context.Context) error {
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-o.turn }()
	return o.count(ctx)
}

// count compares the rows up to the position with the message log and the tally, inserts what is missing, and records the tally.
func (o *restorer) count(ctx context.Context) error {
	done := o.r.shown.Load()
	before, revision, err := readTally(ctx, o.kv, o.r.partition)
	if err != nil {
		return err
	}
	if before.Last > done { // the partition was begun again
		before = tally{Missing: before.Missing}
	}
	deleted, now, err := o.rows.LastDelete(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	o.letters = nil
	refused, err := o.compare(ctx, done, deleted)
	if err != nil {
		return err
	}
	after, err := o.rows.CountLasting(ctx, o.r.partition, before.Last)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	next := tally{Version: tallyVersion, Last: done, At: now, Missing: before.Missing}
	if lost := before.Rows - min(after, before.Rows); lost > 0 {
		log := o.r.log.With("rows", lost, "up_to", before.Last, "counted_before", before.At)
		if !deleted.IsZero() && !deleted.Before(before.At.Add(-deleteMargin)) {
			log.Warn("rows are missing from the table, which a DELETE may have taken", "deleted_at", deleted)
		} else {
			log.Error("rows are lost from the table and cannot be inserted again from the message log")
			next.Missing += lost
		}
	}
	if next.Rows, err = o.rows.CountLasting(ctx, o.r.partition, done); err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	o.r.own.missing.Set(float64(next.Missing + refused))
	if revision != 0 && next.Last == before.Last && next.Rows == before.Rows && next.Missing == before.Missing {
		return nil
	}
	return o.record(ctx, next, revision)
}

func (o *restorer) record(ctx context.Context, t tally, revision uint64) error {
	value, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode %s: %w", tallyKey(o.r.partition), err)
	}
	if revision == 0 {
		_, err = o.kv.Create(ctx, tallyKey(o.r.partition), value)
	} else {
		_, err = o.kv.Update(ctx, tallyKey(o.r.partition), value, revision)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", tallyKey(o.r.partition), err)
	}
	return nil
}

// compare counts the places that the message log holds, and restores what is missing. It returns how many rows ClickHouse refused.
func (o *restorer) compare(ctx context.Context, done uint64, deleted time.Time) (refused uint64, err error) {
	log, err := messagelog.Open(ctx, o.r.js, o.r.partition)
	if err != nil {
		return 0, err
	}
	bounds, err := log.Bounds(ctx)
	if err != nil || bounds.Gone {
		return 0, err
	}
	for first := bounds.First; first <= min(done, bounds.Last); first += restoreWindow {
		last := min(first+restoreWindow-1, done, bounds.Last)
		span := clickhouse.Span{Partition: o.r.partition, First: first, Last: last}
		if span.From, err = acceptedAt(ctx, log, first); err != nil {
			return refused, err
		}
		if span.Until, err = acceptedAt(ctx, log, last); err != nil {
			return refused, err
		}
		if !span.Until.IsZero() && span.Until.Before(span.From) { // the broker's clock has stepped back
			span.From, span.Until = span.Until, span.From
		}
		counts, err := o.rows.CountPlaces(ctx, span, restoreRange)
		if err != nil {
			return refused, err //nolint:wrapcheck // a clickhouse.Error says it all
		}
		for from := first; from <= last; from += restoreRange {
			until := min(from+restoreRange-1, last)
			lack := until + 1 - from - min(counts[(from-first)/restoreRange], until+1-from)
			if lack == o.explained[from] { // 0 as a rule
				continue
			}
			more, err := o.restore(ctx, log, seqRange{from, until}, deleted)
			if refused += more; err != nil {
				return refused, err
			}
		}
	}
	return refused, nil
}

// acceptedAt is when the message at a place was accepted; the zero time if the log does not have it or it is no message.
func acceptedAt(ctx context.Context, log *messagelog.Log, place uint64) (time.Time, error) {
	entry, err := log.At(ctx, place, 0)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	at, err := message.ViewTime(entry.Data)
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // a dead letter
	}
	return at, nil
}

// restore reads a range of the message log and inserts those of its messages that have no row, but for those that are to have none.
func (o *restorer) restore(ctx context.Context, log *messagelog.Log, span seqRange, deleted time.Time) (refused uint64, err error) {
	begun := time.Now()
	var entries []messagelog.Entry
	if err := log.Range(ctx, span.First, span.Last, nil, func(e messagelog.Entry) error {
		entries = append(entries, e)
		return nil
	}); err != nil {
		return 0, err
	}
	lacking, err := o.filler.Lacking(ctx, entries)
	if err == nil {
		lacking, err = o.filler.unexpired(lacking)
	}
	if err == nil {
		lacking, err = o.unintended(ctx, lacking, deleted)
	}
	if err != nil {
		return 0, err
	}
	if len(lacking) > 0 {
		facts := o.r.log.With("range", span.String(), "first", lacking[0].Seq, "last", lacking[len(lacking)-1].Seq, "rows", len(lacking))
		facts.Error("rows are missing from the table; inserting them again from the message log")
		var restored uint64
		restored, refused, err = o.fill(ctx, lacking)
		o.r.own.restored.Add(float64(restored))
		if err != nil {
			return refused, err
		}
		facts.Info("rows were inserted again", "restored", restored, "refused", refused)
	}
	if refused == 0 {
		counts, err := o.rows.CountPlaces(ctx, clickhouse.Span{Partition: o.r.partition, First: span.First, Last: span.Last}, span.count())
		if err != nil {
			return 0, err //nolint:wrapcheck // a clickhouse.Error says it all
		}
		o.explained[span.First] = span.count() - min(counts[0], span.count())
	}
	return refused, lifecycle.Pause(ctx, restorePace*time.Since(begun))
}

// unintended leaves out messages that are to have no row.
func (o *restorer) unintended(ctx context.Context, lacking []messagelog.Entry, deleted time.Time) ([]messagelog.Entry, error) {
	if len(lacking) == 0 {
		return nil, nil
	}
	if o.letters == nil {
		var err error
		if o.letters, err = ReadLetters(ctx, o.r.js); err != nil {
			return nil, err
		}
	}
	var out []messagelog.Entry
	var kept uint64
	for _, m := range lacking {
		id, err := message.ViewID(m.Data)
		switch {
		case err != nil, o.letters[Letter{o.r.partition, m.Seq}]:
		case !deleted.IsZero() && id.Time().Before(deleted.Add(deleteMargin)):
			kept++
		default:
			out = append(out, m)
		}
	}
	if kept > 0 {
		o.r.log.Warn("rows are missing from the table, and are not inserted again since a DELETE may have taken them",
			"rows", kept, "first", lacking[0].Seq, "last", lacking[len(lacking)-1].Seq, "deleted_at", deleted)
	}
	return out, nil
}

// fill inserts messages. Those that ClickHouse refuses are found by halving, and left out.
func (o *restorer) fill(ctx context.Context, messages []messagelog.Entry) (restored, refused uint64, err error) {
	if !o.r.good() {
		return 0, 0, errStopped
	}
	select { // the batches of the live writing come through here as well
	case o.r.inserts <- struct{}{}:
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	}
	restored, err = o.filler.Fill(ctx, messages)
	<-o.r.inserts
	class := clickhouse.ClassOf(err)
	switch {
	case err == nil || (class != clickhouse.Data && class != clickhouse.Oversize):
		return restored, 0, err
	case len(messages) == 1:
		o.r.log.Log(ctx, slog.LevelError, "ClickHouse refuses a row that it has lost", "partition_seq", messages[0].Seq, "error", err)
		return restored, 1, nil
	}
	for _, half := range [][]messagelog.Entry{messages[:len(messages)/2], messages[len(messages)/2:]} {
		more, no, err := o.fill(ctx, half)
		if restored, refused = restored+more, refused+no; err != nil {
			return restored, refused, err
		}
	}
	return restored, refused, nil
}
