package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// bugRunsMax is the number of runs in which each deliberate bug must be caught.
const bugRunsMax = 1000

// Each of these mistakes is caught. What the simulation cannot find it does not
// guard against, so a new rule of the sequencer deserves a line here.
func TestDeliberateBugsAreCaught(t *testing.T) {
	t.Parallel()
	for name, b := range deliberateBugs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics := runner.NewMetrics(prometheus.NewRegistry()).Partition(0)
			for seed := uint64(1); seed <= bugRunsMax; seed++ {
				_, err := run(Options{Seed: seed, Metrics: metrics}, b)
				var broken *RuleError
				if errors.As(err, &broken) {
					t.Logf("caught in run %d: %s", seed, broken.Reason[:min(200, len(broken.Reason))])
					return
				}
			}
			require.Fail(t, "not caught")
		})
	}
}

func deliberateBugs() map[string]bug {
	return map[string]bug{
		"the fold takes the time from the wall clock": reading(func(o *owner, r runner.Record, _ uint64) runner.Record {
			r.Time = o.now()
			return r
		}),
		"the fold goes through a map": reading(shuffled),
		"a gap in reading is passed over": reading(func(_ *owner, r runner.Record, want uint64) runner.Record {
			r.Seq = max(want, min(r.Seq, want))
			return r
		}),
		"the window is not in the checkpoint": loading(func(s *snapshotBytes, _ fold.Params) { s.window = nil }),
		"the ID clock is not in the checkpoint, and goes back with the broker's": loading(func(s *snapshotBytes, _ fold.Params) {
			s.head[lastIDWord], s.head[nowMilliWord] = 0, 0
		}),
		"after recovery one entry fewer fits into the window": loading(func(s *snapshotBytes, p fold.Params) {
			if len(s.window) == p.DedupEntriesMax {
				s.window = s.window[1:]
			}
		}),
		"a checkpoint is stored before the message log has its messages": {storeEarly: true, store: storeUnseen},
		"the pointer is moved before the checkpoint is whole":            {pointerFirst: true},
		"the pointer is moved though another has moved it":               {moveAnyway: true},
		"each checkpoint is written over the one before":                 {oneObject: true},
		"a checkpoint's age is judged by its date":                       {due: dueByDate, store: storeByDate},
		"the horizon is a tenth of what it should be": {now: func(o *owner) func() time.Time {
			return func() time.Time { return start().Add(10 * o.w.now) }
		}},
		"the write-ahead log is trimmed behind the newest checkpoint":          {logs: wrap(func(l *faultyLogs) { l.trimNewest = true })},
		"after a refusal sending goes on from what was sent":                   {logs: wrap(func(l *faultyLogs) { l.blindTail = true })},
		"an acknowledgement is taken for the newest chunk's":                   {logs: wrap(func(l *faultyLogs) { l.anyAck = true })},
		"one message too many is suppressed after recovery":                    {logs: wrap(func(l *faultyLogs) { l.tailOff = 1 })},
		"messages are appended without the expected sequence":                  {logs: wrap(func(l *faultyLogs) { l.noExpected = true })},
		"an owner that has lost its lease answers from a state of its own":     {logs: wrap(func(l *faultyLogs) { l.zombieAnswers = true })},
		"a live message is stored too":                                         {logs: wrap(func(l *faultyLogs) { l.storeLive = true })},
		"a stored message is published live too":                               {logs: wrap(func(l *faultyLogs) { l.liveStored = true })},
		"a checkpoint past the message log's tail is recovered from":           {checkpoints: func(_ *owner, c runner.Checkpoints) runner.Checkpoints { return &boldCheckpoints{Checkpoints: c} }},
		"a checkpoint is read without its checksum and a flipped bit believed": {checkpoints: func(o *owner, c runner.Checkpoints) runner.Checkpoints { return &trustingCheckpoints{c, o.w} }},
	}
}

// reading changes each record on its way from the write-ahead log; want is the
// sequence after the last one read.
func reading(change func(o *owner, r runner.Record, want uint64) runner.Record) bug {
	return bug{logs: func(o *owner, l *logs) runner.Logs {
		return &faultyLogs{logs: l, o: o, change: change}
	}}
}

// shuffled orders the sends of a record by chance, as iterating over a map does.
func shuffled(o *owner, r runner.Record, _ uint64) runner.Record {
	var sends [][]byte
	for rest := r.Data; len(rest) > 0; {
		_, after, err := message.NextSend(rest)
		if err != nil {
			return r
		}
		sends = append(sends, rest[:len(rest)-len(after)])
		rest = after
	}
	rng := rand.New(rand.NewPCG(uint64(o.id), uint64(o.w.now)))
	rng.Shuffle(len(sends), func(i, j int) { sends[i], sends[j] = sends[j], sends[i] })
	r.Data = bytes.Join(sends, nil)
	return r
}

func wrap(set func(*faultyLogs)) func(*owner, *logs) runner.Logs {
	return func(o *owner, l *logs) runner.Logs {
		f := &faultyLogs{logs: l, o: o}
		set(f)
		return f
	}
}

// faultyLogs are logs with one mistake.
type faultyLogs struct {
	*logs
	o      *owner
	change func(o *owner, r runner.Record, want uint64) runner.Record

	trimNewest, blindTail, anyAck, noExpected, zombieAnswers, storeLive, liveStored bool

	tailOff uint64
	tails   int    // asked for
	sent    uint64 // last message
	asked   uint64 // last message whose outcome was asked for
}

func (f *faultyLogs) ReadWAL(ctx context.Context, from uint64) (runner.Reader, error) {
	r, err := f.logs.ReadWAL(ctx, from)
	if err != nil || f.change == nil {
		return r, err
	}
	return &faultyReader{Reader: r, f: f, want: from}, nil
}

type faultyReader struct {
	runner.Reader
	f    *faultyLogs
	want uint64
}

func (r *faultyReader) Next(ctx context.Context) (runner.Record, error) {
	record, err := r.Reader.Next(ctx)
	if err != nil {
		return record, err
	}
	record = r.f.change(r.f.o, record, r.want)
	r.want = max(r.want, record.Seq+1)
	return record, nil
}

func (f *faultyLogs) TrimWAL(ctx context.Context, first uint64) error {
	if metas := f.w.store.pointer.metas; f.trimNewest && len(metas) > 0 {
		first = metas[0].WALSeq + 1
	}
	return f.logs.TrimWAL(ctx, first)
}

func (f *faultyLogs) OutputTail(ctx context.Context) (runner.Tail, error) {
	t, err := f.logs.OutputTail(ctx)
	f.tails++
	switch {
	case err != nil:
	case f.tails == 1 && f.tailOff > 0: // recovery
		t = runner.Tail{Seq: t.Seq + f.tailOff, WALSeq: t.WALSeq}
	case f.tails > 1 && f.blindTail:
		t = runner.Tail{Seq: max(t.Seq, f.sent)}
	}
	return t, err
}

func (f *faultyLogs) Append(m *runner.Output, ack bool) error {
	f.sent = m.Seq
	if ack {
		f.asked = m.Seq
	}
	if f.liveStored {
		if err := f.Live(strings.Replace(m.Subject, fmt.Sprintf("messages.%d", f.w.plan.params.Partition), "live", 1), m.Data); err != nil {
			return err
		}
	}
	if f.noExpected {
		return f.send(m, anySeq, ack)
	}
	return f.logs.Append(m, ack)
}

func (f *faultyLogs) OnAck(take func(seq uint64, err error)) {
	f.logs.OnAck(func(seq uint64, err error) {
		if f.anyAck {
			seq = f.asked
		}
		take(seq, err)
	})
}

func (f *faultyLogs) Answer(subject string, answers []byte) error {
	key := f.w.lease
	if f.zombieAnswers && (f.w.now >= key.expires || key.holder != f.o.id) {
		var batch message.AnswerBatch
		if err := batch.UnmarshalVT(answers); err != nil {
			return err
		}
		for _, a := range batch.GetAnswers() {
			a.MessageSeq++
		}
		var err error
		if answers, err = batch.MarshalVT(); err != nil {
			return err
		}
	}
	return f.logs.Answer(subject, answers)
}

func (f *faultyLogs) Live(subject string, data []byte) error {
	if f.storeLive {
		m := runner.Output{Seq: f.w.log.last() + 1, Subject: strings.Replace(subject, "live", fmt.Sprintf("messages.%d", f.w.plan.params.Partition), 1), Data: data}
		if err := f.send(&m, m.Seq-1, false); err != nil {
			return err
		}
	}
	return f.logs.Live(subject, data)
}

// storeUnseen stores without a look at the message log.
func storeUnseen(p *partition) func(context.Context, *fold.Snapshot) error {
	return func(ctx context.Context, snapshot *fold.Snapshot) error {
		metas, err := p.kept.List(ctx)
		if err != nil {
			return err
		}
		var beside *runner.CheckpointMeta
		if len(metas) > 0 {
			beside = &metas[0]
		}
		if _, err = p.kept.Save(ctx, snapshot, p.Now(), beside); err != nil || beside == nil {
			return err
		}
		return p.ports.TrimWAL(ctx, beside.WALSeq+1)
	}
}

// dueByDate and storeByDate are what the runner did at first: a checkpoint was
// thought to be as durable as it was old.
func dueByDate(p *partition) bool {
	metas := p.logs.w.store.pointer.metas
	if len(metas) == 0 {
		return p.Progress().WALSeq > 0
	}
	return p.Progress().WALSeq > metas[0].WALSeq && p.Now().Sub(metas[0].TakenAt) >= p.logs.w.plan.cfg.CheckpointInterval
}

func storeByDate(p *partition) func(context.Context, *fold.Snapshot) error {
	return func(ctx context.Context, snapshot *fold.Snapshot) error {
		metas, err := p.kept.List(ctx)
		if err != nil {
			return err
		}
		var beside *runner.CheckpointMeta
		if len(metas) > 0 {
			beside = &metas[0]
		}
		now := p.Now()
		if _, err := p.kept.Save(ctx, snapshot, now, beside); err != nil || beside == nil || now.Sub(beside.TakenAt) < 3*syncInterval {
			return err
		}
		return p.ports.TrimWAL(ctx, beside.WALSeq+1)
	}
}

// boldCheckpoints hide which message a checkpoint was taken at.
type boldCheckpoints struct {
	runner.Checkpoints
	metas []runner.CheckpointMeta
}

func (c *boldCheckpoints) List(ctx context.Context) ([]runner.CheckpointMeta, error) {
	metas, err := c.Checkpoints.List(ctx)
	c.metas = slices.Clone(metas)
	for i := range metas {
		metas[i].Output = 0
	}
	return metas, err
}

func (c *boldCheckpoints) Load(ctx context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
	for _, m := range c.metas {
		if m.Object == meta.Object {
			meta = m
		}
	}
	return c.Checkpoints.Load(ctx, meta, params)
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
	lastIDWord   = 4
	nowMilliWord = 5
	headWords    = 8
)

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
	for range headWords {
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
