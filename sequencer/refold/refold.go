package refold

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/checkpoint"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/natslog"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

const (
	// A reader of the write-ahead log that gets nothing for this long, though the log has more, is
	// replaced: consumers can stall. It waits longer each time, for a broker that is only slow.
	foldStallMin = 2 * time.Second
	foldStallMax = 30 * time.Second
	// foldFailuresMax is how often in a row reading may fail, with a pause between, until that is an error.
	foldFailuresMax  = 5
	foldFailurePause = 500 * time.Millisecond
)

// ErrTrimmed says that records were trimmed from the write-ahead log before they were read.
var ErrTrimmed = fmt.Errorf("the write-ahead log was trimmed meanwhile: %w", fold.ErrNotNext)

// Starts are the states that the write-ahead log of a partition can be folded from.
type Starts struct {
	checkpoints *checkpoint.Store
	params      fold.Params
	metas       []runner.CheckpointMeta // newest first
	empty       bool                    // the log is whole
	Beyond      uint64                  // record of a checkpoint that the log does not reach; 0: there is none
}

// FindStarts looks for them. There is at least one, or an error.
func FindStarts(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, number int, wal runner.Bounds) (*Starts, error) {
	s := &Starts{
		params: fold.Params{Partition: number, DedupWindow: deployment.DedupWindow, DedupEntriesMax: deployment.DedupEntriesMax},
		empty:  wal.First <= 1,
	}
	var err error
	if s.checkpoints, err = checkpoint.Open(ctx, js, number); err != nil {
		return nil, err
	}
	kept, err := s.checkpoints.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, meta := range kept.Metas {
		switch {
		case meta.WALSeq > wal.Last:
			s.Beyond = max(s.Beyond, meta.WALSeq)
		case meta.WALSeq+1 >= wal.First:
			s.metas = append(s.metas, meta)
		}
	}
	if len(s.metas) == 0 && !s.empty {
		return nil, fmt.Errorf("%w: the write-ahead log starts at record %d, and no checkpoint reaches it", runner.ErrMissing, wal.First)
	}
	return s, nil
}

// firstOutput is the first message that comes out of the oldest state.
func (s *Starts) FirstOutput() uint64 {
	if s.empty {
		return 1
	}
	return s.metas[len(s.metas)-1].Output + 1
}

// oldest loads the oldest state.
func (s *Starts) Oldest(ctx context.Context) (*fold.State, error) {
	if s.empty {
		return fold.New(s.params)
	}
	return s.checkpoints.Load(ctx, s.metas[len(s.metas)-1], s.params)
}

// newest loads the newest state that suits; nil where none does. One that is damaged is passed over
// where there is an older one.
func (s *Starts) Newest(ctx context.Context, suits func(*fold.State) bool) (*fold.State, error) {
	var damage error
	for _, meta := range s.metas {
		state, err := s.checkpoints.Load(ctx, meta, s.params)
		if errors.Is(err, runner.ErrDamaged) {
			damage = errors.Join(damage, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if suits(state) {
			return state, nil
		}
	}
	if s.empty {
		state, err := fold.New(s.params)
		if err != nil || suits(state) {
			return state, err
		}
	}
	return nil, damage
}

// To folds the records behind a state up to last, and hands over what they became. It is ErrTrimmed
// where a record is gone before it was read, and ErrMissing if the log lacks one; what was handed over until then stands.
func To(ctx context.Context, logs *natslog.Logs, state *fold.State, last uint64, handle func([]fold.Effect) error) error {
	f := &folding{logs: logs, state: state, last: last, handle: handle, patience: foldStallMin}
	for state.WALSeq() < last {
		err := f.read(ctx)
		if err == nil || f.handled != nil || ctx.Err() != nil || errors.Is(err, fold.ErrNotNext) || errors.Is(err, runner.ErrMissing) {
			return err
		}
		if f.failures++; f.failures > foldFailuresMax {
			return err
		}
		if err := lifecycle.Pause(ctx, foldFailurePause); err != nil {
			return err
		}
	}
	return nil
}

type folding struct {
	logs     *natslog.Logs
	state    *fold.State
	last     uint64
	handle   func([]fold.Effect) error
	handled  error // by which handle ended it
	effects  []fold.Effect
	patience time.Duration
	failures int // in a row
}

// read folds until the last record is, or what one reader can give.
func (f *folding) read(ctx context.Context) error {
	reader, err := f.logs.ReadWAL(ctx, f.state.WALSeq()+1)
	if err != nil {
		return err
	}
	defer reader.Stop()
	for f.state.WALSeq() < f.last {
		wait, cancel := context.WithTimeout(ctx, f.patience)
		record, err := reader.Next(wait)
		cancel()
		if err != nil {
			return f.stalled(ctx, err)
		}
		if record.Seq <= f.state.WALSeq() {
			continue // the reader started again a little before where it was
		}
		if record.Seq > f.state.WALSeq()+1 {
			return f.trimmed(ctx, fmt.Errorf("record %d came after %d", record.Seq, f.state.WALSeq()))
		}
		f.patience, f.failures = foldStallMin, 0
		f.effects, err = f.state.Fold(record.Record, f.effects[:0])
		if err != nil && !errors.Is(err, fold.ErrMalformed) {
			return err
		}
		if f.handled = f.handle(f.effects); f.handled != nil {
			return f.handled
		}
	}
	return nil
}

// stalled tells a log that has lost what comes next from a reader that does not give it.
func (f *folding) stalled(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return cause
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		f.patience = min(2*f.patience, foldStallMax)
	}
	return f.trimmed(ctx, cause)
}

// trimmed is ErrTrimmed if the next record was trimmed, ErrMissing if it is missing from the log's middle or end, else the cause.
func (f *folding) trimmed(ctx context.Context, cause error) error {
	wal, err := f.logs.WALBounds(ctx)
	if err != nil {
		return errors.Join(cause, err)
	}
	if wal.First > f.state.WALSeq()+1 {
		return fmt.Errorf("%w: it starts at record %d, wanted %d", ErrTrimmed, wal.First, f.state.WALSeq()+1)
	}
	missing, err := f.logs.WALMissing(ctx, f.state.WALSeq()+1)
	if err != nil {
		return errors.Join(cause, err)
	}
	if missing == f.state.WALSeq()+1 {
		return fmt.Errorf("%w: record %d of the write-ahead log is missing (`sendhouse repair wal --partition %d` continues behind it)", runner.ErrMissing, missing, f.logs.Partition())
	}
	return cause
}
