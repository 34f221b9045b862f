package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// flush makes a batch durable: it records the limits and the token, inserts the rows under the token, and moves the
// position past the batch; see runner for the states of a range. ctx allows further attempts; work outlives it and
// bounds those that have begun.
//
// If ClickHouse refuses the batch for its size or its content, flush cuts it into parts with their own limits and
// tokens, down to the single row. A single row that is refused for its content becomes a dead letter.
//
// For the last piece it moves the position in memory only: the caller decides when to record it.
func (r *runner) flush(ctx, work context.Context, b *batch) error {
	if err := r.checkPending(b); err != nil {
		return err
	}
	pieces := []seqRange{b.span()} // a stack: the next piece is the last
	for len(pieces) > 0 {
		piece := pieces[len(pieces)-1]
		pieces = pieces[:len(pieces)-1]
		if head, tail := r.withinMemory(piece); tail != nil {
			pieces, piece = append(pieces, *tail), head
		}
		if err := r.begin(work, b, piece); err != nil {
			return err
		}
		err := r.insertPiece(ctx, work, b, piece)
		var refused *refusedError
		switch {
		case err == nil:
			r.finish(b, piece)
		case errors.As(err, &refused) && piece.count() > 1:
			r.metrics.splits.Inc()
			for _, part := range slices.Backward(b.cut(piece, refused)) {
				pieces = append(pieces, part)
			}
		case errors.As(err, &refused):
			if err := r.refuse(ctx, work, b, piece, refused.err); err != nil {
				return err
			}
			r.finish(b, piece)
		default:
			return err
		}
	}
	return nil
}

// checkPending compares a batch that was read again with its recorded digest.
func (r *runner) checkPending(b *batch) error {
	p := r.position.Pending
	if p == nil {
		return nil
	}
	if b.span() != p.seqRange {
		panic(fmt.Sprintf("writer: %s: pending range %s was read as %s", r.stream, p, b.span()))
	}
	if have := b.digest(p.seqRange); have != p.Digest {
		return &contentError{what: fmt.Sprintf("the pending range %s of %s", p, r.stream), have: have, want: p.Digest}
	}
	return nil
}

// begin records the limits and the token of a piece, and thereby that everything before it is done. A piece that was
// already pending at the start keeps its token.
func (r *runner) begin(work context.Context, b *batch, piece seqRange) error {
	if p := r.position.Pending; p != nil && p.seqRange == piece {
		return nil
	}
	first, end := b.rows(piece)
	r.position.Pending = &pendingRange{
		seqRange: piece,
		Rows:     end - first,
		Digest:   b.digest(piece),
		Token:    tokenOf(r.stream, r.position.StreamCreated, piece),
	}
	return r.advance(work)
}

// finish moves the position past a piece, in memory.
func (r *runner) finish(b *batch, piece seqRange) {
	r.position.Pending = nil
	record, err := message.ViewWALSeq(b.record(piece.Last))
	if err != nil {
		record = 0 // it is a dead letter; the next session searches for its record
	}
	r.position.moved(piece.Last, b.digestAt(piece.Last), record)
	if r.doubtful != nil && piece.Last >= r.doubtful.Last {
		r.doubtful = nil
	}
	r.unsaved = true
	r.show()
}

// refusedError reports that ClickHouse refused a piece and may accept parts of it. The table has none of its rows,
// except that some servers of a Distributed table may have accepted theirs: these get them again, and
// ReplacingMergeTree merges the duplicates.
type refusedError struct {
	class clickhouse.Class
	row   int // of the piece, from 1, that ClickHouse names as the cause; 0 if it names none
	err   error
}

func refusedBy(err error) *refusedError {
	refused := &refusedError{class: clickhouse.ClassOf(err), err: err}
	var known *clickhouse.Error
	if errors.As(err, &known) {
		refused.row = known.Row
	}
	return refused
}

func (e *refusedError) Error() string { return "refused: " + e.err.Error() }

// insertPiece puts the bad records of a piece into the dead letters and inserts its rows. It retries until ctx ends,
// and then returns the error of the last attempt.
func (r *runner) insertPiece(ctx, work context.Context, b *batch, piece seqRange) error {
	for _, bad := range b.badIn(piece) {
		if err := r.bury(ctx, work, b, bad); err != nil {
			return err
		}
	}
	first, end := b.rows(piece)
	if first == end {
		return nil
	}
	for attempt := 0; ; attempt++ {
		if !r.good() {
			return fmt.Errorf("insert %s of %s: %w", piece, r.stream, lease.ErrExpired)
		}
		if r.guard != nil {
			if err := r.guard.err(); err != nil {
				return err
			}
		}
		err := r.insertOnce(work, b, first, end)
		if err == nil {
			return nil
		}
		class := clickhouse.ClassOf(err)
		r.metrics.retries[class].Inc()
		if !clickhouse.IsBehind(err) {
			r.doubt(piece)
		}
		if (class == clickhouse.Data) || (class == clickhouse.Oversize && piece.count() > 1) {
			if !clickhouse.IsBehind(err) {
				return refusedBy(err)
			}
			lacking, known := r.lacking(work, b, piece)
			if known && lacking > 0 {
				return refusedBy(err)
			}
			if known {
				r.log.Error("a view refused the rows of a batch, which are in the table", "stream", r.stream, "range", piece.String(), "error", err)
				r.well()
				return nil
			}
		}
		state, level := stateRetrying, slog.LevelWarn
		if class == clickhouse.Configuration {
			state, level = statePaused, slog.LevelError
		}
		r.setStatus(state, err)
		r.logOnce(level, "insert failed; retrying: "+class.String(), err)
		if r.timing.backoff.Wait(ctx, attempt+1) != nil {
			return err
		}
		if class == clickhouse.Memory && r.mayCut(work, b, piece) {
			return refusedBy(err)
		}
	}
}

// refuse handles a single row that ClickHouse refused: it becomes a dead letter. If very many rows in a row were
// refused, the table is more likely wrong than all of them: the runner then pauses before each, so that a person can
// notice and repair it, and tries each row once more.
func (r *runner) refuse(ctx, work context.Context, b *batch, piece seqRange, cause error) error {
	if r.refusedInARow >= r.limits.refusedInARow {
		r.setStatus(statePaused, cause)
		r.logOnce(slog.LevelError, "ClickHouse refuses many rows in succession; pausing between them", cause)
		if err := lifecycle.Pause(ctx, r.timing.backoff.Max); err != nil {
			return err
		}
		first, end := b.rows(piece)
		err := r.insertOnce(work, b, first, end)
		if err == nil || clickhouse.ClassOf(err) != clickhouse.Data {
			return err // inserted, or the next session retries
		}
	}
	r.refusedInARow++
	return r.bury(ctx, work, b, badRecord{seq: piece.First, reason: reasonRefused, err: cause, token: r.position.Pending.Token})
}

// insertOnce makes one attempt when it gets an insert slot.
func (r *runner) insertOnce(work context.Context, b *batch, first, end int) error {
	select {
	case r.inserts <- struct{}{}:
	case <-work.Done():
		return context.Cause(work)
	}
	defer func() { <-r.inserts }()
	begun := time.Now()
	err := r.bringIn(work, b, first, end)
	if b.samples != nil {
		r.trace(b, first, end, begun, err)
	}
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	r.refusedInARow = 0
	r.tookWithinMemory()
	r.well()
	r.metrics.observeInsert(r.own, end-first, b.block.Bytes()*(end-first)/b.block.Rows(), time.Since(begun),
		b.block.AcceptedAt(first), b.block.AcceptedAt(end-1), r.now())
	return nil
}

// trace records an attempt to insert rows of which some are traced.
func (r *runner) trace(b *batch, first, end int, begun time.Time, err error) {
	from, to := b.block.PartitionSeq(first), b.block.PartitionSeq(end-1)
	span := r.tracer.Batch("insert", begun, b.samples.Between(from, to))
	span.Int("sendhouse.partition", int64(r.partition))
	span.Int("sendhouse.partition_seq.first", int64(from))
	span.Int("sendhouse.partition_seq.last", int64(to))
	span.Int("sendhouse.batch.rows", int64(end-first))
	if err != nil {
		span.Fail(clickhouse.ClassOf(err).String())
	}
	span.End()
}

// bury puts one record into the dead letters, retrying until ctx ends.
func (r *runner) bury(ctx, work context.Context, b *batch, bad badRecord) error {
	r.log.Error("putting a record into the dead letters", "stream", r.stream, "partition_seq", bad.seq, "reason", bad.reason, "error", bad.err)
	for attempt := 0; ; attempt++ {
		err := r.letters.putRecord(work, bad, b.record(bad.seq))
		if err == nil {
			r.metrics.deadLetters[bad.reason].Inc()
			return nil
		}
		r.metrics.natsRetries.Inc()
		r.setStatus(stateRetrying, err)
		r.logOnce(slog.LevelError, "cannot write to the dead letters; retrying", err)
		if r.timing.backoff.Wait(ctx, attempt+1) != nil {
			return err
		}
	}
}
