package sim

import (
	"context"
	"errors"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// keepInterval is how often the runner's housekeeping looks, here as there.
const keepInterval = 5 * time.Second

// partition is one run of the partition, from recovery until something breaks.
type partition struct {
	*runner.Partition
	logs   *logs
	ports  runner.Logs // logs, or what a deliberate bug makes of them
	kept   runner.Checkpoints
	keeper *runner.Keeper
	reader runner.Reader

	recovered bool
	caughtUp  int
	emitted   uint64 // last record sent
	resuming  bool
	ticked    time.Duration
	snapshot  *fold.Snapshot // waits until the message log has everything up to it
	seen      causes         // of the world when it recovered
}

// recover begins a run of the partition.
func (o *owner) recover() {
	w := o.w
	l := &logs{w: w, o: o}
	p := &partition{logs: l, ports: l, ticked: w.now, seen: w.causes()}
	o.part = p
	var kept runner.Checkpoints = &checkpoints{w: w, o: o}
	if w.bug.logs != nil {
		p.ports = w.bug.logs(o, l)
	}
	if w.bug.checkpoints != nil {
		kept = w.bug.checkpoints(o, kept)
	}
	p.kept = kept
	now := o.now
	if w.bug.now != nil {
		now = w.bug.now(o)
	}
	p.Partition = runner.New(w.plan.cfg, w.plan.params, runner.Deps{
		Logs: p.ports, Checkpoints: kept, Logger: w.logger, Metrics: w.metrics,
		Now: now, MayWrite: o.mayWrite, CaughtUp: func() { p.caughtUp++ },
	})
	if err := p.begin(); err != nil {
		o.failed("recover", err)
		return
	}
	w.check.recoveries++
	p.emitted = p.Progress().Emitted
	w.event("owner %d recovered at record %d, the message log at %d", o.id, p.Progress().WALSeq, p.emitted)
}

func (p *partition) begin() error {
	ctx := context.Background()
	if err := p.Recover(ctx); err != nil {
		return err
	}
	p.recovered = true
	p.keeper = p.Keeper()
	var err error
	p.reader, err = p.ports.ReadWAL(ctx, p.Progress().WALSeq+1)
	return err
}

// failed ends the run of the partition, to recover later.
func (o *owner) failed(op string, err error) {
	w := o.w
	w.event("owner %d stops (%s): %v", o.id, op, err)
	w.check.explained(w, o, err)
	o.end()
	o.retry = w.now + w.upTo(2*time.Second)
}

func (o *owner) work() {
	w, p := o.w, o.part
	if w.chance(0.8) {
		for range 1 + w.rand.IntN(4) {
			if more, err := o.foldNext(); err != nil {
				o.failed("fold", err)
				return
			} else if !more {
				break
			}
		}
	}
	if w.chance(0.8) {
		if err := o.emit(); err != nil {
			if errors.Is(err, runner.ErrNotOwner) {
				o.giveUp()
				return
			}
			o.failed("emit", err)
			return
		}
	}
	if err := o.keep(); err != nil {
		o.failed("housekeeping", err)
		return
	}
	if p.caughtUp > 1 {
		w.fail("owner %d caught up %d times in one run", o.id, p.caughtUp)
	}
}

// foldNext folds the next record, if there is one and the outbox has room: the
// runner would wait.
func (o *owner) foldNext() (more bool, err error) {
	w, p := o.w, o.part
	if !o.room() {
		return false, nil
	}
	r, err := p.reader.Next(context.Background())
	if errors.Is(err, errNothing) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w.event("owner %d folds record %d", o.id, r.StreamSeq)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = p.Fold(ctx, r)
	if errors.Is(err, context.Canceled) {
		w.fail("owner %d would wait for room in the outbox, though there is some", o.id)
	}
	return true, err
}

// room reports whether the outbox takes what the next record becomes, going by
// what the reference made of it.
func (o *owner) room() bool {
	w, at := o.w, o.part.Progress()
	if at.WALSeq >= w.wal.last() {
		return true // nothing to fold
	}
	messages := func(record uint64) int64 { // up to and with it
		if record == 0 {
			return 0
		}
		return int64(w.ref.records[record-1].output)
	}
	if at.WALSeq <= at.Emitted {
		return true // nothing is queued
	}
	most := int64(w.plan.cfg.OutboxMessagesMax)
	return messages(at.WALSeq+1)-messages(at.Emitted) <= most && int64(at.WALSeq-at.Emitted) < most
}

// emit does what the runner's emitter does between two signals.
func (o *owner) emit() error {
	w, p := o.w, o.part
	if p.resuming {
		return o.resume()
	}
	n, err := p.Emit()
	switch {
	case errors.Is(err, runner.ErrNotOwner):
		return err
	case err != nil:
		w.event("owner %d resumes after: %v", o.id, err)
		return o.resume()
	case n > 0:
		p.emitted += uint64(n)
		o.acked = w.now
	case p.emitted > p.Progress().Emitted && w.now-o.acked >= outputAckTimeout:
		w.event("owner %d waited too long for record %d", o.id, p.emitted)
		return o.resume()
	}
	return nil
}

func (o *owner) resume() error {
	p := o.part
	again, err := p.Resume(context.Background())
	if p.resuming = again; again {
		return nil
	}
	p.emitted = p.Progress().Emitted
	return err
}

// keep does the housekeeping that is due.
func (o *owner) keep() error {
	w, p := o.w, o.part
	ctx := context.Background()
	if p.snapshot != nil {
		return o.checkpoint(ctx)
	}
	if w.now-p.ticked < keepInterval {
		return nil
	}
	p.ticked = w.now
	if err := p.keeper.Measure(ctx); err != nil {
		return err
	}
	due := p.keeper.Due
	if w.bug.due != nil {
		due = func() bool { return w.bug.due(p) }
	}
	if err := p.keeper.Look(ctx); err != nil {
		w.event("owner %d cannot look at the checkpoints: %v", o.id, err)
	} else if due() {
		p.snapshot = p.keeper.Snapshot()
	} else if err := p.keeper.Trim(ctx); err != nil {
		w.event("owner %d cannot trim: %v", o.id, err)
	}
	return nil
}

// checkpoint stores the snapshot once the message log has everything up to it.
func (o *owner) checkpoint(ctx context.Context) error {
	w, p := o.w, o.part
	if p.Progress().Emitted < p.snapshot.WALSeq() && !w.bug.storeEarly {
		return nil
	}
	snapshot, store := p.snapshot, p.keeper.Store
	p.snapshot = nil
	if w.bug.store != nil {
		store = w.bug.store(p)
	}
	err := store(ctx, snapshot)
	if err == nil {
		err = p.keeper.Trim(ctx)
	}
	if err != nil {
		if runner.Permanent(err) {
			return err
		}
		w.event("owner %d cannot store a checkpoint, or trim: %v", o.id, err)
	}
	return nil
}
