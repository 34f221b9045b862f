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

// runner writes one partition. It works in sessions: a session loads the position, compares it with the
// stream, finishes the pending range if there is one, and then reads on for as long as all goes well. What
// goes wrong ends the session, and the next one starts from what is recorded; so there is one way to start
// after a crash, a failure and a change of ownership.
//
// # How a range gets into the table once
//
// A range is in one of these states. Only the first two are recorded; fresh and doubtful differ in what this process knows.
//
//	fresh     recorded as pending since the start; no insert of it was tried.
//	          → done      an insert under its token succeeded
//	          → doubtful  an insert failed, unless a view refused it: then the table has it, or the token sees to that
//	doubtful  pending at the start of the session, or an insert of it failed: rows of it may be in the table, all or those of some
//	          months, or may still come in, from an insert that nobody waits for any more.
//	          The table is asked which messages of the range it has, by place and message_id, in the turn of the insert:
//	          → done      it has all. Nothing is inserted, so a view does not get them twice
//	          none        insert under the range's token; then ask again: a token that is known for rows that were lost since
//	                      inserts nothing. → done if they are there, else as with some
//	          some        while an earlier insert may still come in (until unsure): wait and ask again.
//	                      Then insert those that are missing under a token of their own (Filler) → done
//	          A failure of any of this: still doubtful, asked again.
//	done      the position is behind it.
//
// What each of the two nets is for: the token covers an insert that comes in between the question and the next insert, by this process,
// one that died, or one that was paused until its lease was another's. It needs a server that remembers it. ClickHouse does not sync its
// log of tokens, so after a power cut it may not; but no insert survives a power cut either, so the answer to the question is then final.
// Not covered: a server that loses power between the answer and the insert behind it, and is back before that gets through. The same row
// is then there twice until ReplacingMergeTree merges the two.
//
// Replicated tables are not asked: a replica may be behind another one, and their tokens are in a Keeper, which syncs them.
type runner struct {
	partition int
	stream    string
	js        jetstream.JetStream
	source    source
	store     store
	filler    *Filler
	asks      bool // the table can be asked what it has
	positions *positions
	letters   *deadLetters
	inserts   chan struct{} // holds a token for each insert that may be under way
	guard     *guard        // nil: any table will do
	good      func() bool   // whether the partition is surely ours at this moment
	budget    *budget
	limits    limits
	timing    timing
	log       *slog.Logger
	metrics   *metrics
	tracer    *tracing.Tracer // nil: nothing is traced
	own       *partitionMetrics
	now       func() time.Time

	batches [2]*batch
	status  atomic.Pointer[status]
	shown   atomic.Uint64 // position.Done, for the watcher
	shownIn atomic.Uint64 // position.DoneRecord
	alarm   chan struct{} // the table may have lost rows; holds one

	// What follows belongs to the session that runs.
	position  position
	asked     bool      // the table has no rows behind the position
	unsaved   bool      // position is ahead of the record
	suspected *seqRange // a gap that the last session met; met again, it is a fact
	// refusedInARow counts rows that ClickHouse refused since it last took one.
	refusedInARow int
	memory        memoryLimit
	// unsure: until then, an attempt whose end nobody knows may still bring its rows in.
	unsure   time.Time
	doubtful *seqRange          // nil if no range is
	faults   lifecycle.Repeated // so that a problem that lasts is not logged at each attempt
}

// status is what readiness and the metrics show of a runner.
type status struct {
	state   state
	problem error // nil when all is well
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
		if r.timing.backoff(ctx, attempt, err) != nil {
			break
		}
	}
	r.setStatus(stateStopped, errStopped)
}

// workContext is for what has been begun: it ends a while after ctx, so that an insert under way can be
// finished and recorded. Where the partition is another's, it ends at once: the other one repeats the insert
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
	errStalled  = errors.New("the consumer has stopped delivering though there are messages")
	errSession  = errors.New("session ended")
)

// report makes the end of a session known: once in the log, and in the state.
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
	r.logOnce(level, "partition is read anew from its recorded position", err)
}

// logOnce logs a problem at once and, while it lasts, at growing intervals; in between it is seen in the metrics.
func (r *runner) logOnce(level slog.Level, msg string, err error) {
	skipped, due := r.faults.Due(msg + err.Error())
	if !due {
		level = slog.LevelDebug
	}
	r.log.Log(context.Background(), level, msg, "error", broker.Explain(err), "skipped", skipped) //nolint:sloglint // the callers give literals
}

// well says that all is well again.
func (r *runner) well() {
	if r.faults.Over() {
		r.log.Info("partition is being written again", "done", r.position.Done)
	}
	r.setStatus(stateRunning, nil)
}

// session brings the partition from its record up to the live end of the stream and goes on until ctx ends
// or something fails. work outlives ctx, for what has been begun.
func (r *runner) session(ctx, work context.Context) error {
	moved := r.position.Done
	var err error
	if r.position, err = r.positions.load(ctx); err != nil {
		return err
	}
	if r.position.Done < moved {
		r.asked = false // the bucket was set back
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
		// What became of a pending range is only found out when the log goes on. In one process with the ingest it
		// would not, if the writer were not ready until then.
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

// write takes batches and inserts them, until something fails.
func (r *runner) write(ctx, work context.Context, g *gatherer) error {
	for {
		if r.unsaved && (ctx.Err() != nil || g.idle()) {
			// Where records wait already, the end of this batch is recorded with the limits of the next one:
			// one write instead of two.
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

// unchanged makes sure that the consumer reads the stream that prepare looked at: one that was made anew in
// between has another creation time, and the consumer of the old one is gone with it.
func (r *runner) unchanged(ctx context.Context, created time.Time) error {
	s, err := r.streamState(ctx)
	switch {
	case err != nil:
		return err
	case !s.created.Equal(created):
		return fmt.Errorf("stream %s was made anew", r.stream)
	case !s.gone && s.last < r.position.Done:
		return fmt.Errorf("stream %s: %w", r.stream, errBehind)
	default:
		return nil
	}
}

// streamState asks for the stream as it is now.
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

// locate finds the record to begin reading with.
func (r *runner) locate(ctx context.Context, place uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timing.request)
	defer cancel()
	log, err := messagelog.Open(ctx, r.js, r.partition)
	if err != nil {
		return 0, err
	}
	return log.Locate(ctx, place, r.position.DoneRecord)
}

// at reads the message at a place, which is in a record or the one behind that.
func (r *runner) at(ctx context.Context, place, record uint64) (messagelog.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timing.request)
	defer cancel()
	log, err := messagelog.Open(ctx, r.js, r.partition)
	if err != nil {
		return messagelog.Entry{}, err
	}
	return log.At(ctx, place, record)
}

// show lets the watcher see the position.
func (r *runner) show() {
	r.shown.Store(r.position.Done)
	r.shownIn.Store(r.position.DoneRecord)
}
