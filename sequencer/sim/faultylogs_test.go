package sim

import (
	"bytes"
	"context"
	"math/rand/v2"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

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

	trimNewest, blindTail, trustLast, anyAck, noExpected, zombieAnswers, storeLive, liveStored bool

	// Of what a record says of its messages.
	skipEmpty, ownNewest, ownFirst bool

	tailOff uint64
	tails   int    // asked for
	sent    uint64 // last record
	asked   uint64 // last record whose outcome was asked for
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
	r.want = max(r.want, record.StreamSeq+1)
	return record, nil
}

func (f *faultyLogs) TrimWAL(ctx context.Context, first uint64) error {
	if metas := f.w.store.metas; f.trimNewest && len(metas) > 0 {
		first = metas[0].WALSeq + 1
	}
	return f.logs.TrimWAL(ctx, first)
}

func (f *faultyLogs) OutputTail(ctx context.Context, since uint64) (runner.Tail, error) {
	t, err := f.logs.OutputTail(ctx, since)
	f.tails++
	switch {
	case err != nil:
	case f.tails == 1 && f.tailOff > 0: // recovery
		t = runner.Tail{StreamSeq: t.StreamSeq + f.tailOff}
	case f.trustLast && t.Beyond > 0:
		kept := f.w.log.kept
		t = runner.Tail{StreamSeq: t.Beyond, Found: true, Data: kept[len(kept)-1].record.Data}
	case f.tails > 1 && f.blindTail:
		t = runner.Tail{StreamSeq: max(t.StreamSeq, f.sent)}
	}
	return t, err
}

func (f *faultyLogs) Append(m *runner.Derived, ack bool) error {
	f.sent = m.StreamSeq
	if ack {
		f.asked = m.StreamSeq
	}
	if f.liveStored {
		var batch message.BatchView
		if err := message.ViewBatch(m.Data, &batch); err != nil {
			return err
		}
		for _, stored := range batch.Messages {
			if err := f.Live("live.2.stored", stored); err != nil {
				return err
			}
		}
	}
	if f.skipEmpty && m.Messages == 0 {
		return nil
	}
	if f.ownNewest || f.ownFirst {
		var err error
		if m, err = f.otherHead(m); err != nil {
			return err
		}
	}
	if f.noExpected {
		return f.send(m, anySeq, ack)
	}
	return f.logs.Append(m, ack)
}

// otherHead is a record that says of itself only what its messages tell.
func (f *faultyLogs) otherHead(m *runner.Derived) (*runner.Derived, error) {
	var batch message.MessageBatch
	if err := batch.UnmarshalVT(m.Data); err != nil {
		return nil, err
	}
	if f.ownFirst {
		batch.First = 1
	}
	if n := len(batch.GetMessages()); f.ownNewest && n > 0 {
		batch.NewestId = batch.GetMessages()[n-1].GetMessageId()
	}
	other := *m
	var err error
	other.Data, err = batch.MarshalVT()
	return &other, err
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
	if f.zombieAnswers && (key.current == 0 || key.holder != f.o.process) {
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
		m := runner.Derived{StreamSeq: f.w.log.last() + 1, Messages: 1, Data: data}
		if err := f.send(&m, m.StreamSeq-1, false); err != nil {
			return err
		}
	}
	return f.logs.Live(subject, data)
}
