package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// runner writes one partition. It works in sessions: a session loads the position, compares it with the stream, finishes
// the pending range if there is one, and then reads until something fails. Any failure ends the session, and the next one
// starts from the recorded position; so a crash, a failure and a change of ownership all restart the same way.
//
// # How a range gets into the table once
//
// A range is in one of these states. The record shows only pending or done; fresh and doubtful differ in what this
// process knows.
//
//	fresh     recorded as pending since the position was loaded; no insert of it was attempted.
//	          → done      an insert under its token succeeded
//	          → doubtful  an insert failed, unless a view refused it: then the table has the rows, or the token ensures
//	                      that the next attempt adds only what is missing
//	doubtful  pending at the start of the session, or an insert of it failed. The table may have all of its rows, or
//	          those of some months, and an insert that this process no longer waits for may still add more. In the turn
//	          of the insert, the table is queried for the messages of the range, by partition_seq and message_id:
//	          → done      it has all of them. Nothing is inserted, so that a view does not receive them twice
//	          none        insert under the range's token, then query again: if the server remembers the token of rows
//	                      that it has lost since, it inserts nothing. → done if they are there, else as with some
//	          some        while an earlier insert may still add rows (until unsure): wait and query again.
//	                      Then insert the missing ones under a token of their own (Filler) → done
//	          If any of this fails: still doubtful, query again.
//	done      the position is past it.
//
// The token covers an insert that arrives between the query and the next insert: from this process, from one that died, or
// from one that was paused until it lost its lease. It requires that the server remembers the token. ClickHouse does not
// sync its log of tokens, so it may forget them in a power cut; but no insert survives a power cut either, so the result of
// a later query is final. Not covered: a server that loses power between the query and the next insert, and is back before
// that insert arrives. The same row is then there twice until ReplacingMergeTree merges the two.
//
// Replicated tables are not queried: a replica may lag, and their tokens are in a Keeper, which syncs them.
type runner struct {
	partition int
	stream    string
	js        jetstream.JetStream
	source    source
	store     store
	filler    *Filler
	asks      bool // the table can be queried for its rows
	positions *positions
	letters   *deadLetters
	inserts   chan struct{} // a semaphore: a token for each concurrent insert
	guard     *guard        // nil: accept any table
	good      func() bool   // reports whether the lease is certainly valid now
	budget    *budget
	limits    limits
	timing    timing
	log       *slog.Logger
	metrics   *metrics
	tracer    *tracing.Tracer // nil disables tracing
	own       *partitionMetrics
	now       func() time.Time

	batches [2]*batch
	status  atomic.Pointer[status]
	shown   atomic.Uint64  // position.Done, for the watcher
	shownIn atomic.Uint64  // position.DoneRecord
	alarm   lifecycle.Wake // signals that the table may have lost rows

	// The following fields belong to the running session.
	position  position
	asked     bool      // the table was checked for rows after the position
	unsaved   bool      // position is ahead of its record in the bucket
	suspected *seqRange // a gap that the last session met; to be confirmed
	// refusedInARow counts the rows that ClickHouse has refused since it last accepted one.
	refusedInARow int
	memory        memoryLimit
	// unsure is the time until which an attempt with an unknown outcome may still add its rows.
	unsure   time.Time
	doubtful *seqRange          // nil if no range is doubtful
	faults   lifecycle.Repeated // limits the log lines of a lasting problem
}

// status is what readiness and the metrics show of a runner.
type status struct {
	state   state
	problem error // nil if there is none
}

func (r *runner) setStatus(s state, problem error) {
	r.status.Store(&status{state: s, problem: problem})
	r.own.setState(s)
}

// run writes the partition until ctx ends.
func (r *runner) run(ctx context.Context) {
	work, cancel := r.workContext(ctx)
	defer cancel()
	r.setStatus(stateStarting, errStarting)
	for attempt := 0; ctx.Err() == nil; attempt++ {
		progressed := r.position.Done
		err := r.session(ctx, work)
		if ctx.Err() != nil {
			break
		}
		r.own.restarts.Inc()
		if r.position.Done != progressed {
			attempt = 0
		}
		r.report(err)
		if r.timing.backoff.Wait(ctx, attempt+1) != nil {
			break
		}
	}
	r.setStatus(stateStopped, errStopped)
}

// workContext returns the context of work in progress: it ends some time after ctx, so that a running insert can be
// finished and recorded. If the partition now belongs to another writer, it ends at once: that writer repeats the insert
// under the same token.
func (r *runner) workContext(ctx context.Context) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var timer atomic.Pointer[time.Timer]
	stop := context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); errors.Is(cause, lease.ErrExpired) || errors.Is(cause, lease.ErrLost) {
			cancel()
			return
		}
		timer.Store(time.AfterFunc(r.timing.stop, cancel))
	})
	return work, func() {
		stop()
		if t := timer.Load(); t != nil {
			t.Stop()
		}
		cancel()
	}
}

var (
	errStarting = errors.New("starting")
	errStopped  = errors.New("stopped")
	errBehind   = errors.New("the message log ends before the position: waiting until its tail is derived again")
	errStalled  = errors.New("the consumer has stopped delivering although the stream has messages")
	errSession  = errors.New("session ended")
)

// report publishes the end of a session in the log and in the state.
func (r *runner) report(err error) {
	var gap *gapError
	var content *contentError
	var identity *identityError
	foreign := errors.Is(err, message.ErrNotAMessageBatch)
	level := slog.LevelWarn
	switch {
	case errors.As(err, &gap):
		r.suspected = &gap.missing
		r.setStatus(stateRetrying, err)
	case errors.As(err, &content), errors.As(err, &identity), foreign:
		level = slog.LevelError
		r.setStatus(statePaused, err)
	case errors.Is(err, errFenced):
		r.own.fenced.Inc()
		r.setStatus(stateRetrying, err)
	default:
		r.setStatus(stateRetrying, err)
	}
	r.logOnce(level, "session failed; reading the partition again from its recorded position", err)
}

// logOnce logs a problem at once and, while it lasts, at growing intervals. The metrics show it in between.
func (r *runner) logOnce(level slog.Level, msg string, err error) {
	skipped, due := r.faults.Due(msg + err.Error())
	if !due {
		level = slog.LevelDebug
	}
	r.log.Log(context.Background(), level, msg, "error", broker.Explain(err), "skipped", skipped) //nolint:sloglint // the callers pass literals
}

// well clears the reported problem.
func (r *runner) well() {
	if r.faults.Over() {
		r.log.Info("partition is being written again", "done", r.position.Done)
	}
	r.setStatus(stateRunning, nil)
}

// session advances the partition from its record to the live end of the stream and continues until ctx ends or
// something fails. work outlives ctx, for work in progress.
func (r *runner) session(ctx, work context.Context) error {
	moved := r.position.Done
	var err error
	if r.position, err = r.positions.load(ctx); err != nil {
		return err
	}
	if r.position.Done < moved {
		r.asked = false // the bucket was restored to an earlier state
	}
	r.unsaved, r.doubtful = false, nil
	r.show()
	if err := r.confirm(ctx); err != nil {
		return err
	}
	stream, err := r.prepare(ctx)
	if err != nil {
		return err
	}
	first, endAt := r.position.Done+1, uint64(0)
	if r.position.Pending != nil {
		endAt = r.position.Pending.Last
		r.unsure = r.now().Add(r.timing.unsure)
		r.doubt(r.position.Pending.seqRange)
	}
	g := newGatherer(r.limits, r.budget, first, endAt, r.batches)
	defer g.stop(errSession)

	record, err := r.locate(ctx, first)
	if err != nil {
		return err
	}
	stop, err := r.source.consume(ctx, record, g.add, g.fail)
	if err != nil {
		return err
	}
	defer stop()
	if err := r.unchanged(ctx, stream.created); err != nil {
		return err
	}
	if stream.gone {
		// Only the next message reveals the fate of a pending range whose log is empty. In one process with ingest, that
		// message would never arrive if the writer were not ready until then.
		r.well()
	}
	watching, unwatch := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { // ends with the session
		defer close(watched)
		r.watch(watching, g, stream.created)
	}()
	defer func() {
		unwatch()
		<-watched
	}()
	return r.write(ctx, work, g)
}

// write takes batches and inserts them until something fails.
func (r *runner) write(ctx, work context.Context, g *gatherer) error {
	for {
		if r.unsaved && (ctx.Err() != nil || g.idle()) {
			// If records are waiting already, the limits of the next batch are recorded in the same write as the end of
			// this one.
			if err := r.advance(work); err != nil {
				return err
			}
		}
		if r.position.Pending == nil {
			r.well()
		}
		b, err := g.take(ctx)
		if err != nil {
			if r.unsaved {
				return errors.Join(err, r.advance(work))
			}
			return err
		}
		err = r.flush(ctx, work, b)
		g.give(b)
		if err != nil {
			return err
		}
	}
}

func (r *runner) advance(ctx context.Context) error {
	if err := r.positions.save(ctx, &r.position); err != nil {
		return err
	}
	r.unsaved = false
	return nil
}

// unchanged verifies that the consumer reads the stream that prepare compared: one that was recreated in between has
// another creation time, and the consumer of the old one is gone with it.
func (r *runner) unchanged(ctx context.Context, created time.Time) error {
	s, err := r.streamState(ctx)
	switch {
	case err != nil:
		return err
	case !s.created.Equal(created):
		return fmt.Errorf("stream %s was recreated", r.stream)
	case !s.gone && s.last < r.position.Done:
		return fmt.Errorf("stream %s: %w", r.stream, errBehind)
	default:
		return nil
	}
}

// streamState returns the current state of the stream.
func (r *runner) streamState(ctx context.Context) (streamState, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timing.request)
	defer cancel()
	log, err := messagelog.Open(ctx, r.js, r.partition)
	if err != nil {
		return streamState{}, err
	}
	bounds, err := log.Bounds(ctx)
	if err != nil {
		return streamState{}, err
	}
	return streamState{created: bounds.Created, first: bounds.First, last: bounds.Last, gone: bounds.Gone}, nil
}

// locate finds the record to start reading from.
func (r *runner) locate(ctx context.Context, place uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timing.request)
	defer cancel()
	log, err := messagelog.Open(ctx, r.js, r.partition)
	if err != nil {
		return 0, err
	}
	return log.Locate(ctx, place, r.position.DoneRecord)
}

// at reads the message at a partition_seq, which is in the given record or the one after it.
func (r *runner) at(ctx context.Context, place, record uint64) (messagelog.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timing.request)
	defer cancel()
	log, err := messagelog.Open(ctx, r.js, r.partition)
	if err != nil {
		return messagelog.Entry{}, err
	}
	return log.At(ctx, place, record)
}

// show publishes the position to the watcher.
func (r *runner) show() {
	r.shown.Store(r.position.Done)
	r.shownIn.Store(r.position.DoneRecord)
}
