package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// partition runs one partition from recovery until something breaks: folding,
// emitting and housekeeping, each in its own goroutine.
//
//	write-ahead log ──▶ fold ──▶ answers
//	                      │
//	                      ▼
//	                   outbox ──▶ message log
type partition struct {
	cfg         Config
	params      fold.Params
	logs        logs
	checkpoints checkpoints
	log         *slog.Logger
	metrics     *partitionMetrics
	now         func() time.Time

	mu    sync.Mutex // guards state: folding against snapshots
	state *fold.State

	outbox *outbox
	// recovered is the message log's tail at recovery. Messages up to it are there
	// already; when the fold comes by the last of them, it must be the same.
	recovered tail
	mayWrite  func() bool // the lease surely stands
	caughtUp  func()      // called once, when the log's end at recovery is folded
	walEnd    uint64      // that end

	// Reused from record to record.
	effects []fold.Effect
	answers []byte
	outputs []output
}

// run recovers and works until ctx ends or something breaks. On a clean end it
// hands the message log what is already derived, for as long as drain allows.
func (p *partition) run(ctx context.Context, drain time.Duration) error {
	if err := p.recover(ctx); err != nil {
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

func (p *partition) asError(op string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return &Error{Op: op, Partition: p.params.Partition, Err: err}
}

// foldAll reads and folds until ctx ends.
func (p *partition) foldAll(ctx context.Context) error {
	reader, err := p.logs.ReadWAL(ctx, p.state.WALSeq()+1)
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
		if r.Seq <= p.state.WALSeq() {
			continue // the reader started again a little before where it was
		}
		if r.Seq > p.state.WALSeq()+1 {
			return fmt.Errorf("%w: record %d came after %d", errReadAgain, r.Seq, p.state.WALSeq())
		}
		if err := p.fold(ctx, r); err != nil {
			return err
		}
		p.noteCaughtUp()
	}
}

// fold folds one record, answers it, and queues its messages.
func (p *partition) fold(ctx context.Context, r record) error {
	start := p.now()
	p.mu.Lock()
	effects, err := p.state.Fold(r.Record, p.effects[:0])
	p.mu.Unlock()
	p.effects = effects
	switch {
	case errors.Is(err, fold.ErrMalformed):
		// Nobody of ours wrote it. It has no effects, and whoever folds the log
		// passes it by in the same way; it stays in the log for a look.
		p.metrics.malformed.Inc()
		p.log.Error("skipped a record of the write-ahead log that is no batch of sends", "wal_seq", r.Seq, "bytes", len(r.Data), "error", err)
		return nil
	case err != nil:
		return err
	}
	p.answer(r)
	p.metrics.folded(p.effects, p.now().Sub(start))
	if err := p.derive(r); err != nil {
		return err
	}
	return p.outbox.put(ctx, p.outputs)
}

// answer tells ingest what became of the record's sends. A lost answer costs the
// client a retry, so a failed publish is counted and not tried again.
func (p *partition) answer(r record) {
	if r.ReplyTo == "" {
		return
	}
	p.answers = p.answers[:0]
	for i := range p.effects {
		e := &p.effects[i]
		p.answers = message.AppendAnswer(p.answers, e.Identity.ID, e.Identity.Seq, e.Outcome)
	}
	if err := p.logs.Answer(r.ReplyTo, p.answers); err != nil {
		p.metrics.answersFailed.Inc()
	}
}

// derive makes the messages that the message log does not have yet, and sends
// live ones off.
func (p *partition) derive(r record) error {
	p.outputs = p.outputs[:0]
	var buf []byte // one for the record; the outbox keeps slices of it
	for i := range p.effects {
		e := &p.effects[i]
		if e.Live() {
			p.live(e)
		}
		if e.Output == 0 {
			continue
		}
		if e.Output <= p.recovered.Seq {
			if err := p.checkRecovered(e); err != nil {
				return err
			}
			continue
		}
		if buf == nil {
			buf = make([]byte, 0, len(r.Data)+len(p.effects)*message.IdentitySizeMax)
		}
		from := len(buf)
		buf = message.AppendMessage(buf, e.Send, e.Identity)
		p.outputs = append(p.outputs, output{
			Seq: e.Output, WALSeq: e.Identity.WALSeq, WALIndex: e.Identity.WALIndex,
			Subject: string(topology.AppendMessageSubject(nil, p.params.Partition, e.View.ChannelType, string(e.View.ChannelID))),
			Data:    buf[from:len(buf):len(buf)],
		})
	}
	return nil
}

func (p *partition) checkRecovered(e *fold.Effect) error {
	if e.Output != p.recovered.Seq || !p.recovered.Found {
		return nil
	}
	return sameMessage(&output{Seq: e.Output, WALSeq: e.Identity.WALSeq, WALIndex: e.Identity.WALIndex}, p.recovered)
}

// live publishes a no_persist message, unless the message log shows that the
// record was folded before: then it went out before.
func (p *partition) live(e *fold.Effect) {
	if e.Identity.WALSeq <= p.recovered.WALSeq {
		return
	}
	subject := string(topology.AppendLiveSubject(nil, e.View.ChannelType, string(e.View.ChannelID)))
	if err := p.logs.Live(subject, message.AppendMessage(nil, e.Send, e.Identity)); err != nil {
		p.metrics.liveFailed.Inc()
	}
}

func (p *partition) noteCaughtUp() {
	if p.caughtUp != nil && p.state.WALSeq() >= p.walEnd {
		p.caughtUp()
		p.caughtUp = nil
	}
}

// progress may be called from any goroutine.
func (p *partition) progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == nil { // not recovered yet
		return Progress{}
	}
	acked, _, _ := p.outbox.state()
	return Progress{WALSeq: p.state.WALSeq(), Output: acked}
}
