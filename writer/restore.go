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
	// restoreWindow is the number of partition_seqs that one query covers, restoreRange the number that is read from the
	// message log if the table lacks some of them.
	restoreWindow = 1 << 20
	restoreRange  = 16_384
	// restoreInterval is the interval of counts without a sign of a loss.
	restoreInterval = time.Hour
	// restorePace: after it has read the message log, the restorer pauses for this multiple of the time that it took.
	restorePace = 3
	// deleteMargin allows for clock differences: a DELETE may have removed messages accepted this much after it.
	deleteMargin = time.Minute
)

// rows is the part of the ClickHouse client that the restorer uses.
type rows interface {
	LastDelete(ctx context.Context) (deleted, now time.Time, err error)
	CountPlaces(ctx context.Context, s clickhouse.Span, size uint64) (map[uint64]uint64, error)
	CountLasting(ctx context.Context, partition int, last uint64) (uint64, error)
}

// tally is the record, in the writer's bucket, of the number of rows that a partition had when they were last counted. It
// reveals a loss of rows that the message log no longer holds.
type tally struct {
	Version int `json:"version"`
	// Rows is the number of partition_seqs up to Last with a row that never expires; At is the time of the count, by ClickHouse's clock.
	Last uint64    `json:"last"`
	Rows uint64    `json:"rows"`
	At   time.Time `json:"at"`
	// Missing is the total of rows that were lost and could not be inserted again.
	Missing uint64 `json:"missing,omitempty"`
}

const tallyVersion = 1

// tallyKey returns the key of a partition's tally in the writer's bucket.
func tallyKey(partition int) string { return fmt.Sprintf("rows.%d", partition) }

// readTally reads a partition's tally, zero if there is none. A damaged one counts as none and is written again.
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

// restorer detects that the table has lost rows of a partition, and inserts them again from the message log.
//
// It counts rows at the start, once the partition is being written; when ClickHouse shows a sign of a loss (a detached
// part, fewer rows, another table); and every hour. It counts up to the writer's position, by ranges, and reads the message
// log only for ranges that are incomplete in the table. These rows are missing by intent, and remain so:
//
//   - rows of expired messages and of dead letters;
//   - rows of messages accepted before the latest DELETE that ClickHouse remembers, which may have removed them.
//
// It inserts all others again, whatever removed them: also after TRUNCATE, DROP PARTITION and DETACH, which look like a
// loss.
//
// The tally reveals losses that cannot be repaired: they are logged, counted in the record and exported (rows_missing)
// until a person removes the record.
type restorer struct {
	r      *runner
	rows   rows
	kv     bucket
	turn   chan struct{}  // holds a token while one of the process's partitions is counted
	alarm  lifecycle.Wake // signals a suspected loss
	filler *Filler
	// explained is the number of partition_seqs without a row by intent, by the first of their range.
	explained map[uint64]uint64
	letters   map[Letter]bool
}

// run counts periodically, and on each alarm, until ctx ends.
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
			if o.r.timing.backoff.Wait(ctx, attempt+1) != nil {
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

// count compares the rows up to the position with the message log and the tally, inserts missing rows, and records the tally.
func (o *restorer) count(ctx context.Context) error {
	done := o.r.shown.Load()
	before, revision, err := readTally(ctx, o.kv, o.r.partition)
	if err != nil {
		return err
	}
	if before.Last > done { // the partition started over
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
			log.Warn("rows are missing from the table; a DELETE may have removed them", "deleted_at", deleted)
		} else {
			log.Error("the table has lost rows that the message log no longer holds")
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

// compare counts the rows of the messages in the message log, and restores missing ones. It returns the number that ClickHouse refused.
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
			more, err := o.restore(ctx, log, seqRange{from, until}, lack, deleted)
			if refused += more; err != nil {
				return refused, err
			}
		}
	}
	return refused, nil
}

// acceptedAt returns when a message was accepted; the zero time if the log does not have it or it is not a message.
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

// restore reads a range of the message log, lack of whose places were counted without a row, and inserts those of its messages
// that should have a row and have none.
func (o *restorer) restore(ctx context.Context, log *messagelog.Log, span seqRange, lack uint64, deleted time.Time) (refused uint64, err error) {
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
		facts := o.r.log.With("range", span.String(), "first", lacking[0].PartitionSeq, "last", lacking[len(lacking)-1].PartitionSeq, "rows", len(lacking))
		facts.Error("rows are missing from the table; inserting them again from the message log")
		var restored uint64
		restored, refused, err = o.fill(ctx, lacking)
		o.r.own.restored.Add(float64(restored))
		if err != nil {
			return refused, err
		}
		facts.Info("inserted missing rows again", "restored", restored, "refused", refused)
	}
	if refused == 0 {
		// Not from another count: rows that were lost since the messages were looked for would pass for explained.
		o.explained[span.First] = lack - min(lack, uint64(len(lacking)))
	}
	return refused, lifecycle.Pause(ctx, restorePace*time.Since(begun))
}

// unintended leaves out messages without a row by intent.
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
		case err != nil, o.letters[Letter{o.r.partition, m.PartitionSeq}]:
		case !deleted.IsZero() && id.Time().Before(deleted.Add(deleteMargin)):
			kept++
		default:
			out = append(out, m)
		}
	}
	if kept > 0 {
		o.r.log.Warn("rows are missing from the table; not inserting them again, because a DELETE may have removed them",
			"rows", kept, "first", lacking[0].PartitionSeq, "last", lacking[len(lacking)-1].PartitionSeq, "deleted_at", deleted)
	}
	return out, nil
}

// fill inserts messages. It finds those that ClickHouse refuses by bisection, and leaves them out.
func (o *restorer) fill(ctx context.Context, messages []messagelog.Entry) (restored, refused uint64, err error) {
	if !o.r.good() {
		return 0, 0, errStopped
	}
	select { // shared with the batches of the live pipeline
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
		o.r.log.Log(ctx, slog.LevelError, "ClickHouse refuses to insert a lost row again", "partition_seq", messages[0].PartitionSeq, "error", err)
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
