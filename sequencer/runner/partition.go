package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// Partition runs one partition from recovery until something breaks: folding,
// emitting and housekeeping, each in its own goroutine.
//
//	write-ahead log ──▶ fold ──▶ answers
//	                      │
//	                      ▼
//	                   outbox ──▶ message log
type Partition struct {
	cfg    Config
	params fold.Params
	Deps

	mu    sync.Mutex // folding against snapshots
	state *fold.State

	outbox *outbox
	// recovered is the message log's tail at recovery. Records up to it are there
	// already; when the fold comes by the last of them, it must be the same.
	recovered Tail
	since     uint64           // the oldest record that can be derived again; none from it on may be missing
	claimed   Kept             // at recovery
	damaged   []CheckpointMeta // of those, found so
	walEnd    uint64           // the write-ahead log's end at recovery
	caughtUp  bool             // it is folded
	clock     brokerClock
	clockSaid lifecycle.Repeated // steps of the broker's clock

	// Reused from record to record.
	effects []fold.Effect
	answers []byte
	derived []byte    // the record that the message log ends with
	chunk   []Derived // emitting
}

// Deps are what a partition works with. All fields but Tracer must be set.
type Deps struct {
	Logs        Logs
	Checkpoints Checkpoints
	Logger      *slog.Logger
	Metrics     *PartitionMetrics
	Now         func() time.Time
	// MayWrite reports whether the lease surely is valid.
	MayWrite func() bool
	// CaughtUp is called once, when what was in the write-ahead log at recovery is
	// folded.
	CaughtUp func()
	Tracer   *tracing.Tracer
}

// New makes a partition that has not recovered yet.
func New(cfg Config, params fold.Params, deps Deps) *Partition {
	return &Partition{cfg: cfg, params: params, Deps: deps}
}

// Run recovers and works until ctx ends or something breaks. On a clean end it
// hands the message log what is already derived, for as long as drain allows.
func (p *Partition) Run(ctx context.Context, drain time.Duration) error {
	if err := p.Recover(ctx); err != nil {
		return &Error{Op: "recover", Partition: p.params.Partition, Err: err}
	}
	group, ctx := errgroup.WithContext(ctx)
	folded := make(chan struct{})
	group.Go(func() error {
		defer close(folded)
		return p.asError("fold", p.foldAll(ctx))
	})
	group.Go(func() error { return p.asError("emit", p.emitAll(ctx, folded, drain)) })
	group.Go(func() error { return p.asError("housekeeping", p.keep(ctx)) })
	return group.Wait()
}

func (p *Partition) asError(op string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return &Error{Op: op, Partition: p.params.Partition, Err: err}
}

// foldAll reads and folds until ctx ends.
func (p *Partition) foldAll(ctx context.Context) error {
	reader, err := p.Logs.ReadWAL(ctx, p.state.WALSeq()+1)
	if err != nil {
		return err
	}
	defer func() { reader.Stop() }()
	p.noteCaughtUp()
	for {
		r, err := reader.Next(ctx)
		if err != nil {
			return err
		}
		if err := p.Fold(ctx, r); err != nil {
			return err
		}
	}
}

// Fold folds the next record, answers it, and queues its messages. A record that
// was folded before is passed over; one that comes too early is an error. It waits
// while the outbox is full.
func (p *Partition) Fold(ctx context.Context, r Record) error {
	if r.StreamSeq <= p.state.WALSeq() {
		return nil // the reader started again a little before where it was
	}
	if r.StreamSeq > p.state.WALSeq()+1 {
		return fmt.Errorf("%w: record %d came after %d", errReadAgain, r.StreamSeq, p.state.WALSeq())
	}
	if err := p.fold(ctx, r); err != nil {
		return err
	}
	p.noteCaughtUp()
	return nil
}

func (p *Partition) fold(ctx context.Context, r Record) error {
	start := p.Now()
	p.noteStep(start, r)
	p.mu.Lock()
	effects, err := p.state.Fold(r.Record, p.effects[:0])
	p.mu.Unlock()
	p.effects = effects
	switch {
	case errors.Is(err, fold.ErrMalformed):
		// No ingest wrote it. It has no effects, and every fold of the log
		// skips it in the same way; it stays in the log for inspection.
		p.Metrics.malformed.Inc()
		p.Logger.Error("skipped a record of the write-ahead log that is no batch of sends", "wal_seq", r.StreamSeq, "bytes", len(r.Data), "error", err)
		p.effects = p.effects[:0]
		return p.emit(ctx, r)
	case err != nil:
		return err
	}
	p.answer(r)
	now := p.Now()
	if r.Traced != nil {
		p.trace(r, start)
	}
	p.Metrics.folded(p.effects, now.Sub(start), p.clock.ago(now, r.Time))
	p.live()
	return p.emit(ctx, r)
}

// noteStep reports a broker's clock that has stepped between two records. docs/architecture.md, Time, says what that does.
func (p *Partition) noteStep(now time.Time, r Record) {
	by := p.clock.record(now, r.Time)
	if by == 0 || r.StreamSeq <= p.walEnd && by > 0 { // of what was there at recovery no more is known than its order
		return
	}
	direction, steps := "forward", p.Metrics.stepsForward
	if by < 0 {
		direction, steps = "back", p.Metrics.stepsBack
	}
	steps.Inc()
	if skipped, due := p.clockSaid.Due(direction); due {
		p.Logger.Warn("the broker's clock has stepped", "direction", direction, "by", by.Abs(), "wal_seq", r.StreamSeq, "record_time", r.Time, "skipped", skipped)
	}
}

// trace notes that the record was folded and answered, unless that was done before.
func (p *Partition) trace(r Record, start time.Time) {
	if r.StreamSeq <= p.recovered.StreamSeq {
		return
	}
	span := p.Tracer.Batch("fold record", start, r.Traced)
	span.Int("sendhouse.partition", int64(p.params.Partition))
	span.Int("sendhouse.wal_seq", int64(r.StreamSeq))
	span.Int("sendhouse.batch.sends", int64(len(p.effects)))
	span.End()
}

// answer tells ingest what became of the record's sends. A lost answer costs the
// client a retry, so a failed publish is counted and not tried again.
func (p *Partition) answer(r Record) {
	if r.ReplyTo == "" {
		return
	}
	p.answers = p.answers[:0]
	for i := range p.effects {
		e := &p.effects[i]
		p.answers = message.AppendAnswer(p.answers, e.Identity.ID, e.Identity.Seq, e.Outcome)
	}
	if err := p.Logs.Answer(r.ReplyTo, p.answers); err != nil {
		p.Metrics.answersFailed.Inc()
	}
}

// emit puts what the record became into the outbox. What the message log has already is not sent again; the last of it
// must be the same.
func (p *Partition) emit(ctx context.Context, r Record) error {
	switch {
	case r.StreamSeq == p.recovered.StreamSeq && p.recovered.Found:
		p.derived, _ = Derive(p.derived[:0], p.state, p.effects)
		return sameRecord(p.derived, p.recovered)
	case r.StreamSeq <= p.recovered.StreamSeq:
		return nil
	}
	out := Derived{StreamSeq: r.StreamSeq}
	space := len(r.Data) + len(p.effects)*message.MessageFrameOverheadMax + message.BatchHeadSizeMax
	out.Data, out.Messages = Derive(make([]byte, 0, space), p.state, p.effects)
	if r.Traced != nil {
		out.Traced = p.traced(r)
	}
	return p.outbox.put(ctx, out)
}

// traced says which messages of the record are traced, by their places in it.
func (p *Partition) traced(r Record) tracing.Samples {
	var traced tracing.Samples
	place := uint64(0)
	for i := range p.effects {
		if e := &p.effects[i]; e.PartitionSeq != 0 {
			traced.AddTraceparent(place, r.Traced.Traceparent(uint64(e.Identity.WALIndex)))
			place++
		}
	}
	return traced
}

// live publishes the record's no_persist messages, unless the message log shows that it was folded before: then they went out
// before.
func (p *Partition) live() {
	for i := range p.effects {
		e := &p.effects[i]
		if !e.Live() || e.Identity.WALSeq <= p.recovered.StreamSeq {
			continue
		}
		subject := string(topology.AppendLiveSubject(nil, e.View.ChannelType, string(e.View.ChannelID)))
		if err := p.Logs.Live(subject, message.AppendMessage(nil, e.Send, e.Identity)); err != nil {
			p.Metrics.liveFailed.Inc()
		}
	}
}

func (p *Partition) noteCaughtUp() {
	if !p.caughtUp && p.state.WALSeq() >= p.walEnd {
		p.caughtUp = true
		p.CaughtUp()
	}
}

// Progress is how far a partition is.
type Progress struct {
	WALSeq  uint64 `json:"wal_seq"` // last record folded
	Emitted uint64 `json:"emitted"` // last record that the message log has acknowledged
}

// Remembers is for how long a send is surely known by its client_msg_no; 0 before recovery. It may be called from any goroutine.
func (p *Partition) Remembers() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == nil {
		return 0
	}
	return p.state.Remembers()
}

// Progress may be called from any goroutine, before recovery too.
func (p *Partition) Progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == nil { // not recovered yet
		return Progress{}
	}
	acked, _, _ := p.outbox.state()
	return Progress{WALSeq: p.state.WALSeq(), Emitted: acked}
}
