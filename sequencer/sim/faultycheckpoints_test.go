package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// storeUnseen stores without a look at the message log.
func storeUnseen(p *partition) func(context.Context, *fold.Snapshot) error {
	return func(ctx context.Context, snapshot *fold.Snapshot) error {
		seen, err := p.kept.List(ctx)
		if err != nil {
			return err
		}
		metas := seen.Metas
		var beside *runner.CheckpointMeta
		if len(metas) > 0 {
			beside = &metas[0]
		}
		if _, err = p.kept.Save(ctx, snapshot, p.Now(), seen, beside); err != nil || beside == nil {
			return err
		}
		return p.ports.TrimWAL(ctx, beside.WALSeq+1)
	}
}

// dueByDate and storeByDate are what the runner did at first: a checkpoint was
// thought to be as durable as it was old.
func dueByDate(p *partition) bool {
	metas := p.logs.w.store.metas
	if len(metas) == 0 {
		return p.Progress().WALSeq > 0
	}
	return p.Progress().WALSeq > metas[0].WALSeq && p.Now().Sub(metas[0].TakenAt) >= p.logs.w.plan.cfg.CheckpointInterval
}

// dueOnlyForNew never takes a second checkpoint at one record.
func dueOnlyForNew(p *partition) bool {
	metas := p.logs.w.store.metas
	return p.keeper.Due() && (len(metas) == 0 || p.Progress().WALSeq > metas[0].WALSeq)
}

func storeByDate(p *partition) func(context.Context, *fold.Snapshot) error {
	return func(ctx context.Context, snapshot *fold.Snapshot) error {
		seen, err := p.kept.List(ctx)
		if err != nil {
			return err
		}
		metas := seen.Metas
		var beside *runner.CheckpointMeta
		if len(metas) > 0 {
			beside = &metas[0]
		}
		now := p.Now()
		if _, err := p.kept.Save(ctx, snapshot, now, seen, beside); err != nil || beside == nil || now.Sub(beside.TakenAt) < 3*syncInterval {
			return err
		}
		return p.ports.TrimWAL(ctx, beside.WALSeq+1)
	}
}

// boldCheckpoints hide which record a checkpoint was taken at.
type boldCheckpoints struct {
	runner.Checkpoints
	w     *world
	metas []runner.CheckpointMeta
}

func (c *boldCheckpoints) Claim(ctx context.Context) (runner.Kept, error) {
	kept, err := c.Checkpoints.Claim(ctx)
	c.metas = slices.Clone(kept.Metas)
	for i := range kept.Metas {
		kept.Metas[i].WALSeq = c.w.wal.first - 1
	}
	return kept, err
}

func (c *boldCheckpoints) Load(ctx context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
	for _, m := range c.metas {
		if m.Object == meta.Object {
			meta = m
		}
	}
	return c.Checkpoints.Load(ctx, meta, params)
}

// modestCheckpoints name their objects by the lease's epoch and tell no other that
// they are there.
type modestCheckpoints struct {
	runner.Checkpoints
	o *owner
}

func (c *modestCheckpoints) Claim(ctx context.Context) (runner.Kept, error) {
	kept, err := c.List(ctx)
	kept.Claim = c.o.lease.epoch
	return kept, err
}

// trustingCheckpoints take what they read for what was written.
type trustingCheckpoints struct {
	runner.Checkpoints
	w *world
}

func (c *trustingCheckpoints) Load(ctx context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
	if o := c.w.store.find(meta.Object); o != nil && o.spoiled {
		if state, err := fold.Read(bytes.NewReader(o.data), params); err == nil && state.WALSeq() == meta.WALSeq {
			return state, nil
		}
	}
	return c.Checkpoints.Load(ctx, meta, params)
}

// loading changes a checkpoint between the store and the fold.
func loading(change func(*snapshotBytes, fold.Params)) bug {
	return bug{checkpoints: func(_ *owner, c runner.Checkpoints) runner.Checkpoints {
		return &lossyCheckpoints{c, change}
	}}
}

type lossyCheckpoints struct {
	runner.Checkpoints
	change func(*snapshotBytes, fold.Params)
}

func (c *lossyCheckpoints) Load(ctx context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
	state, err := c.Checkpoints.Load(ctx, meta, params)
	if err != nil {
		return nil, err
	}
	s, err := takeApart(state.Snapshot())
	if err != nil {
		return nil, err
	}
	c.change(s, params)
	return fold.Read(bytes.NewReader(s.join()), params)
}

// snapshotBytes is an encoded snapshot in its parts.
type snapshotBytes struct {
	head     []uint64
	channels []byte
	window   [][]byte
}

// The words of a snapshot's head.
const (
	versionWord     = 0
	lastIDWord      = 4
	ageMilliWord    = 5
	headWords       = 8 // of the first version
	brokerMilliWord = 8
)

// ageOffset is where an entry of the window has the window's age at it, by the newest rule.
const ageOffset = 5 * 8

// steps reports whether the rule for a clock that may step holds in a snapshot.
func (s *snapshotBytes) steps() bool { return s.head[versionWord] == message.RuleSteps }

func takeApart(snapshot *fold.Snapshot) (*snapshotBytes, error) {
	var b bytes.Buffer
	if _, err := snapshot.WriteTo(&b); err != nil {
		return nil, err
	}
	s, rest := &snapshotBytes{}, b.Bytes()
	next := func() uint64 {
		v, n := binary.Uvarint(rest)
		rest = rest[n:]
		return v
	}
	for len(s.head) < headWords || (len(s.head) == headWords && s.head[versionWord] > message.RuleFrozen) {
		s.head = append(s.head, next())
	}
	before := rest
	for range next() {
		next()
		rest = rest[next():]
		next()
	}
	s.channels = before[:len(before)-len(rest)]
	if n := next(); n > 0 {
		s.window = slices.Collect(slices.Chunk(rest, len(rest)/int(n)))
	}
	return s, nil
}

func (s *snapshotBytes) join() []byte {
	var b []byte
	for _, v := range s.head {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, s.channels...)
	b = binary.AppendUvarint(b, uint64(len(s.window)))
	return append(b, bytes.Join(s.window, nil)...)
}
