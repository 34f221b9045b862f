package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
)

// streamState is the state of a partition's message log.
type streamState struct {
	created     time.Time
	first, last uint64 // partition_seqs; first is last+1 if the log is empty
	gone        bool   // all records are gone, and their partition_seqs are unknown
}

// plan is what must happen before a partition is read.
type plan struct {
	// behind: the stream ends before what was read from it. It lost its tail, which is being derived again: wait.
	behind bool
	// recreated: the position belongs to an earlier stream.
	recreated bool
	// verify: the stream still has the record at the position, so compare it.
	verify bool
	// missing is the range that disappeared from the stream before it was read, nil if there is none.
	missing *seqRange
}

// reconcile compares a position with its stream. It relies on nothing but the two, and never moves the position back:
//
//   - A stream that ends before what was read from it has lost its tail (on one server it is written without fsync).
//     The sequencer derives the same records again, so the position stays valid.
//   - A recreated stream is derived from the same write-ahead log, and the partition_seq of a message is a function of
//     that log, so the position stays valid too, if the message at the position proves to be the same. The creation time
//     matters only for the tokens of later batches.
//   - Unread records before the stream's first are lost.
func reconcile(p position, s streamState) plan {
	var out plan
	if p.revision != 0 && !p.StreamCreated.Equal(s.created) {
		out.recreated = true
	}
	known := p.Done
	if p.Pending != nil {
		known = p.Pending.Last
	}
	if s.gone {
		return out // the next message will show what is lost
	}
	if s.last < known {
		out.behind = true
		return out
	}
	if p.Done > 0 && p.DoneDigest != 0 && s.first <= p.Done {
		out.verify = true
	}
	if s.first > p.Done+1 {
		out.missing = &seqRange{First: p.Done + 1, Last: s.first - 1}
	}
	return out
}

// contentError reports that the stream holds other records than before. Nothing is inserted then: a person must find out
// which ones are right.
type contentError struct {
	what       string
	have, want uint64
}

func (e *contentError) Error() string {
	return fmt.Sprintf("the content of the message log has changed: %s has digest %016x, but %016x is recorded", e.what, e.have, e.want)
}

// prepare reconciles the position with the stream before reading, as the plan of reconcile requires, and returns the
// state of the stream that the plan was made for.
func (r *runner) prepare(ctx context.Context) (streamState, error) {
	for {
		s, err := r.streamState(ctx)
		if err != nil {
			return streamState{}, err
		}
		todo := reconcile(r.position, s)
		r.showLag(ctx, s)
		if todo.behind {
			r.setStatus(stateBehind, errBehind)
			r.logOnce(slog.LevelWarn, "waiting for the message log", fmt.Errorf("%w: done %d, last %d", errBehind, r.position.Done, s.last))
			if err := lifecycle.Pause(ctx, r.timing.watch); err != nil {
				return streamState{}, err
			}
			continue
		}
		return s, r.carryOut(ctx, todo, s)
	}
}

// carryOut executes a plan before the partition is read, and records the result.
func (r *runner) carryOut(ctx context.Context, todo plan, s streamState) error {
	if todo.verify {
		if err := r.verify(ctx, todo.recreated); err != nil {
			return err
		}
	}
	changed := r.position.revision == 0
	if todo.recreated {
		log := r.log.With("created_before", r.position.StreamCreated, "created", s.created, "done", r.position.Done, "first", s.first)
		if todo.verify {
			log.Warn("the message log was recreated; it holds the same message at the position, so reading continues there")
		} else {
			log.Error("the message log was recreated and no longer holds the message at the position; reading continues without a comparison")
		}
		changed = true
	}
	r.position.StreamCreated = s.created
	missing, front := todo.missing, todo.missing != nil
	if missing == nil && r.suspected != nil && r.suspected.First <= r.stopsAt() && r.suspected.Last > r.position.Done {
		confirmed, err := r.confirmGap(ctx, *r.suspected)
		if err != nil {
			return err
		}
		missing = confirmed
	}
	r.suspected = nil
	if missing != nil {
		if err := r.givenUp(ctx, *missing, front); err != nil {
			return err
		}
		if err := r.skip(ctx, *missing); err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return r.positions.save(ctx, &r.position)
}

// stopsAt returns the last partition_seq at which a gap affects what is read first.
func (r *runner) stopsAt() uint64 {
	if r.position.Pending != nil {
		return r.position.Pending.Last
	}
	return r.position.Done + 1
}

// verify compares the message at the position with its recorded digest.
func (r *runner) verify(ctx context.Context, recreated bool) error {
	entry, err := r.at(ctx, r.position.Done, r.position.DoneRecord)
	if errors.Is(err, jetstream.ErrMsgNotFound) && !recreated {
		// Deleted by hand: the stream is the same, so the rest of it is too.
		return nil
	}
	if err != nil {
		return fmt.Errorf("compare message %d of %s: %w", r.position.Done, r.stream, err)
	}
	if have := xxhash.Sum64(entry.Data); have != r.position.DoneDigest {
		return &contentError{what: fmt.Sprintf("message %d of %s", r.position.Done, r.stream), have: have, want: r.position.DoneDigest}
	}
	return nil
}

// confirmGap asks the stream's leader for each end of a gap that a reader met; it returns nil if the messages are there
// after all. Confirmed messages are given up as lost, and a follower that lags would confirm any gap.
func (r *runner) confirmGap(ctx context.Context, gap seqRange) (*seqRange, error) {
	for _, seq := range []uint64{gap.First, gap.Last} {
		switch _, err := r.at(ctx, seq, 0); {
		case err == nil:
			return nil, nil //nolint:nilnil // nothing is missing
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return nil, fmt.Errorf("read message %d of %s: %w", seq, r.stream, err)
		}
	}
	return &gap, nil
}

// errDerivable reports that the sequencer will derive the missing messages again.
var errDerivable = errors.New("they are still in the write-ahead log: waiting until the sequencer derives them again")

// givenUp returns nil if the message log will never have the missing messages again. They are missing from its front,
// or before a message that it has.
func (r *runner) givenUp(ctx context.Context, missing seqRange, front bool) error {
	asking, cancel := context.WithTimeout(ctx, r.timing.request)
	defer cancel()
	log, err := messagelog.Open(asking, r.js, r.partition)
	if err != nil {
		return err
	}
	records, err := log.Records(asking)
	if err != nil {
		return err
	}
	last := records.First - 1 // the last missing record
	if !front {
		next, err := r.at(ctx, missing.Last+1, 0)
		if err != nil {
			return fmt.Errorf("read message %d of %s: %w", missing.Last+1, r.stream, err)
		}
		last = next.StreamSeq - 1
	}
	derivable, err := log.Derivable(asking, last)
	if err == nil && derivable {
		err = fmt.Errorf("messages %s of %s are missing: %w", missing, r.stream, errDerivable)
	}
	return err
}

// skip gives up records that are gone from the stream: it counts them, records them in the log, the position and a
// dead letter, and moves the position past them. The caller saves the position.
//
// Records of a pending range may have been inserted before they disappeared, so skip asks ClickHouse.
func (r *runner) skip(ctx context.Context, missing seqRange) error {
	if p := r.position.Pending; p != nil {
		count, err := r.store.CountRange(ctx, r.partition, p.First, p.Last)
		if err != nil {
			return fmt.Errorf("count the rows of the pending range %s: %w", p, err)
		}
		r.position.Pending = nil
		if count == uint64(p.Rows) {
			r.log.Warn("part of the pending range is gone from the message log, but the range was inserted", "range", p.String())
			r.position.moved(p.Last, 0, 0)
			if missing.Last <= p.Last {
				return nil
			}
			missing.First = max(missing.First, p.Last+1)
		} else if missing.First > r.position.Done+1 {
			// Insert the records before the gap first, under a range of their own.
			return nil
		}
	}
	r.log.Error("messages lost: they disappeared from the message log before they were inserted",
		"stream", r.stream, "first", missing.First, "last", missing.Last, "count", missing.count())
	if err := r.letters.putLost(ctx, r.partition, missing); err != nil {
		return err
	}
	r.metrics.deadLetters[reasonLost].Inc()
	r.own.lost.Add(float64(missing.count()))
	r.position.lose(missing)
	r.position.moved(missing.Last, 0, 0)
	return nil
}
