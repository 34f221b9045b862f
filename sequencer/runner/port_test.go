package runner

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/sequencer/fold"
)

const (
	testAckTimeout = 5 * time.Second
	roundTrip      = 20 * time.Millisecond
)

var (
	errWrongLast = errors.New("wrong last sequence")
	errNotStored = errors.New("not stored")
)

// brokenLogs are streams in memory: a write-ahead log that gets a record each second, and a message log that a test breaks.
type brokenLogs struct {
	data []byte // of each record

	mu      sync.Mutex
	walEnd  uint64
	end     uint64    // of the message log
	written time.Time // when the message log took its records
	onAck   func(seq uint64, err error)

	silent  bool          // appends are lost, and nothing is said
	refusal error         // of each append
	delay   time.Duration // of acknowledgements

	tails, appends int // how often each was asked for
}

func (l *brokenLogs) set(silent bool, refusal error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent, l.refusal = silent, refusal
}

func (l *brokenLogs) asked() (tails, appends int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tails, l.appends
}

// write says that the write-ahead log has records up to seq.
func (l *brokenLogs) write(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.walEnd = max(l.walEnd, seq)
}

// rewrite is the message log after it has lost its tail and got what is up to end again.
func (l *brokenLogs) rewrite(end uint64, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end, l.written = end, at
}

func (l *brokenLogs) WALBounds(context.Context) (Bounds, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Bounds{First: 1, Last: l.walEnd}, nil
}

func (l *brokenLogs) WALMissing(context.Context, uint64) (uint64, error) { return 0, nil }

func (l *brokenLogs) ReadWAL(_ context.Context, from uint64) (Reader, error) {
	return &secondly{logs: l, next: from}, nil
}
func (l *brokenLogs) TrimWAL(context.Context, uint64) error { return nil }

func (l *brokenLogs) OutputFrontLost(context.Context, uint64) (bool, error) { return false, nil }

func (l *brokenLogs) CutOutput(context.Context, uint64) error { return errNotStored }

func (l *brokenLogs) OutputTail(ctx context.Context, _ uint64) (Tail, error) {
	select {
	case <-time.After(roundTrip):
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tails++
		return Tail{StreamSeq: l.end}, nil
	case <-ctx.Done():
		return Tail{}, ctx.Err()
	}
}

func (l *brokenLogs) OutputTime(_ context.Context, seq uint64) (at time.Time, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written, seq <= l.end, nil
}

func (l *brokenLogs) Append(r *Derived, ack bool) error {
	told, outcome := l.take(r)
	if told && ack {
		seq := r.StreamSeq // r is used again
		time.AfterFunc(l.delay, func() { l.onAck(seq, outcome) })
	}
	return nil
}

func (l *brokenLogs) take(r *Derived) (told bool, outcome error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appends++
	switch {
	case l.silent:
		return false, nil
	case l.refusal != nil:
		return true, l.refusal
	case r.StreamSeq != l.end+1:
		return true, errWrongLast
	}
	l.end = r.StreamSeq
	return true, nil
}

func (l *brokenLogs) OnAck(f func(seq uint64, err error)) { l.onAck = f }
func (l *brokenLogs) Answer(string, []byte) error         { return nil }
func (l *brokenLogs) Live(string, []byte) error           { return nil }

// secondly reads a record each second.
type secondly struct {
	logs *brokenLogs
	next uint64
}

func (r *secondly) Stop() {}

func (r *secondly) Next(ctx context.Context) (Record, error) {
	r.logs.write(r.next) // it is there, and has yet to be read
	select {
	case <-time.After(time.Second):
		r.next++
		return Record{Record: fold.Record{StreamSeq: r.next - 1, Time: time.Now(), Data: r.logs.data}}, nil
	case <-ctx.Done():
		return Record{}, ctx.Err()
	}
}

// claimedCheckpoints has what a test sets and stores nothing.
type claimedCheckpoints struct {
	kept  Kept
	claim func() // what happens just before
}

func (c *claimedCheckpoints) List(context.Context) (Kept, error) { return c.kept, nil }

func (c *claimedCheckpoints) Claim(context.Context) (Kept, error) {
	if c.claim != nil {
		c.claim()
	}
	return c.kept, nil
}

func (c *claimedCheckpoints) Load(context.Context, CheckpointMeta, fold.Params) (*fold.State, error) {
	return nil, ErrDamaged
}

func (c *claimedCheckpoints) Save(context.Context, *fold.Snapshot, time.Time, Kept, *CheckpointMeta) (Kept, error) {
	return Kept{}, errNotStored
}

func newPartition(logs Logs, checkpoints Checkpoints, outboxMessagesMax int) *Partition {
	return New(
		Config{CheckpointInterval: time.Minute, OutboxMessagesMax: outboxMessagesMax, OutboxBytesMax: 64 << 20, OutputAckTimeout: testAckTimeout},
		fold.Params{DedupWindow: time.Minute, DedupEntriesMax: 1024},
		Deps{
			Logs: logs, Checkpoints: checkpoints, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()).Partition(0),
			Now: time.Now, MayWrite: func() bool { return true }, CaughtUp: func() {},
		})
}
