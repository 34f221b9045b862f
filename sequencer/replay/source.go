// Package replay is the write-ahead log as the source of a replay: it derives the
// messages again, without the message log.
package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/replay"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/natslog"
	"github.com/sendhouse/sendhouse/sequencer/refold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

const (
	walName = "write-ahead log"
	// replayAttempts is how often in a row a replay is begun again, with nothing given in between, that the
	// trimming of the write-ahead log has overtaken.
	replayAttempts = 3
)

// source makes the messages again that the message log had, has, or will have.
type source struct {
	js         jetstream.JetStream
	deployment topology.Deployment
	log        *slog.Logger
}

// NewSource returns the write-ahead log as the source of a replay: its records are folded again, from a
// checkpoint where the log has been trimmed. The message log is not asked for anything, and need not exist. A
// record has no time at which it was stored. It may be used beside a working sequencer, which keeps trimming.
func NewSource(js jetstream.JetStream, deployment topology.Deployment, log *slog.Logger) replay.Source {
	return &source{js: js, deployment: deployment, log: log}
}

func (*source) Name() string { return walName }

func (s *source) Open(_ context.Context, partition int) (replay.Log, error) {
	return &partitionLog{source: s, partition: partition, logs: natslog.New(s.js, partition)}, nil
}

// partitionLog are the messages of a partition.
type partitionLog struct {
	*source
	partition int
	logs      *natslog.Logs
}

// look says how much of the write-ahead log there is, and what it can be folded from.
func (m *partitionLog) look(ctx context.Context) (wal runner.Bounds, created time.Time, starts *refold.Starts, err error) {
	stream, err := m.js.Stream(ctx, topology.WALStream(m.partition))
	if err != nil {
		return wal, created, nil, fmt.Errorf("look at the write-ahead log: %w", err)
	}
	if wal, err = m.logs.WALBounds(ctx); err != nil {
		return wal, created, nil, err
	}
	starts, err = refold.FindStarts(ctx, m.js, m.deployment, m.partition, wal)
	if err == nil && starts.Beyond > wal.Last { // or it is of a record that has come meanwhile
		wal, err = m.logs.WALBounds(ctx)
	}
	if err == nil && starts.Beyond > wal.Last {
		err = fmt.Errorf("%w: the write-ahead log ends at record %d, and a checkpoint is of record %d; restore it from a backup", runner.ErrMissing, wal.Last, starts.Beyond)
	}
	if err != nil {
		return wal, created, nil, fmt.Errorf("partition %d: %w", m.partition, err)
	}
	return wal, stream.CachedInfo().Created, starts, nil
}

// Plan folds to the end of the log, once: only that says how many messages there are and of what times.
func (m *partitionLog) Plan(ctx context.Context, asked replay.Period) (span replay.Span, err error) {
	for attempt := 1; ; attempt++ {
		span, err = m.plan(ctx, asked)
		if attempt == replayAttempts || !errors.Is(err, fold.ErrNotNext) {
			return span, err
		}
		m.log.Info("the write-ahead log was trimmed meanwhile, folding it from a newer checkpoint", "partition", m.partition)
	}
}

func (m *partitionLog) plan(ctx context.Context, asked replay.Period) (replay.Span, error) {
	wal, created, starts, err := m.look(ctx)
	if err != nil {
		return replay.Span{}, err
	}
	span := replay.Span{Created: created, First: starts.FirstPartitionSeq()}
	if asked.FromSeq > 0 && asked.FromSeq < span.First {
		return span, m.gone(ctx, starts)
	}
	span.First = max(span.First, asked.FromSeq)
	from, until := newTimeBound(asked.From), newTimeBound(asked.Until)
	state, err := starts.Newest(ctx, func(s *fold.State) bool { return from.isAfter(s) && until.isAfter(s) })
	switch {
	case err != nil:
		return span, err
	case state == nil && !asked.From.IsZero():
		return span, m.gone(ctx, starts)
	case state == nil: // the end that is asked for may lie before all that there is
		if state, err = starts.Oldest(ctx); err != nil {
			return span, err
		}
	}
	if err := refold.To(ctx, m.logs, state, wal.Last, func(effects []fold.Effect) error {
		for i := range effects {
			from.pass(&effects[i])
			until.pass(&effects[i])
		}
		return nil
	}); err != nil {
		return span, err
	}
	span.Last = state.PartitionSeq()
	if !asked.From.IsZero() {
		span.First = from.or(span.Last + 1)
	}
	if !asked.Until.IsZero() {
		span.Last = until.or(span.Last+1) - 1
	}
	return span, nil
}

// timeBound finds the partition_seq of the first message that was accepted at a time or after it.
type timeBound struct {
	unixMilli int64
	asked     bool
	found     uint64
}

func newTimeBound(at time.Time) *timeBound {
	return &timeBound{unixMilli: at.UnixMilli(), asked: !at.IsZero()}
}

// isAfter reports whether the message surely comes after what a state has folded.
func (b *timeBound) isAfter(s *fold.State) bool {
	return !b.asked || s.LastID() == 0 || s.LastID().UnixMilli() < b.unixMilli
}

func (b *timeBound) pass(e *fold.Effect) {
	if b.found == 0 && e.PartitionSeq > 0 && e.Identity.ID.UnixMilli() >= b.unixMilli {
		b.found = e.PartitionSeq
	}
}

func (b *timeBound) or(other uint64) uint64 {
	if b.found == 0 {
		return other
	}
	return b.found
}

// gone is the error that names the first message that can be derived.
func (m *partitionLog) gone(ctx context.Context, starts *refold.Starts) error {
	oldest, err := starts.Oldest(ctx)
	if err != nil {
		return err
	}
	since := time.UnixMilli(oldest.LastID().UnixMilli() + 1).UTC()
	return fmt.Errorf("partition %d: %w: the write-ahead log was trimmed, and makes messages from partition_seq %d on, which were accepted from %s on (--from-partition-seq=%d or --from=%s)",
		m.partition, replay.ErrGone, oldest.PartitionSeq()+1, since.Format(time.RFC3339Nano), oldest.PartitionSeq()+1, since.Format(time.RFC3339Nano))
}

// Resume refuses if what comes next is gone: to pass over it could not be distinguished from having replayed it.
func (m *partitionLog) Resume(ctx context.Context, created time.Time, next uint64) (uint64, error) {
	_, now, starts, err := m.look(ctx)
	if err != nil {
		return 0, err
	}
	if err := replay.SameLog(walName, m.partition, now, created); err != nil {
		return 0, err
	}
	if next < starts.FirstPartitionSeq() {
		return 0, m.gone(ctx, starts)
	}
	return next, nil
}

// errThrough ends the folding: the last message that was asked for has been given.
var errThrough = errors.New("the last message was given")

// Range makes the messages from first to last, beginning with the newest state that lies before them.
func (m *partitionLog) Range(ctx context.Context, first, last uint64, channels []messagelog.Channel, handle func(messagelog.Entry) error) error {
	next := first
	give := func(e *fold.Effect) error {
		if len(channels) > 0 && !slices.Contains(channels, messagelog.Channel{ID: string(e.View.ChannelID), Type: e.View.ChannelType}) {
			return nil
		}
		return handle(messagelog.Entry{Partition: m.partition, PartitionSeq: e.PartitionSeq, StreamSeq: e.Identity.WALSeq, Data: message.AppendMessage(nil, e.Send, e.Identity)})
	}
	for attempt := 1; next <= last; attempt++ {
		before := next
		err := m.from(ctx, next, func(effects []fold.Effect) error {
			for i := range effects {
				e := &effects[i]
				if e.PartitionSeq < next {
					continue
				}
				if err := give(e); err != nil {
					return err
				}
				if next++; next > last {
					return errThrough
				}
			}
			return nil
		})
		if next > before {
			attempt = 0
		}
		switch {
		case errors.Is(err, errThrough):
			return nil
		case errors.Is(err, fold.ErrNotNext) && attempt < replayAttempts:
			m.log.Info("the write-ahead log was trimmed meanwhile, folding it from a newer checkpoint", "partition", m.partition)
		case err != nil:
			return err
		default:
			return fmt.Errorf("%w: partition %d: the write-ahead log makes no message %d any more", runner.ErrMissing, m.partition, next)
		}
	}
	return nil
}

// from folds to the end of the log from the newest state before a message.
func (m *partitionLog) from(ctx context.Context, next uint64, handle func([]fold.Effect) error) error {
	wal, _, starts, err := m.look(ctx)
	if err != nil {
		return err
	}
	state, err := starts.Newest(ctx, func(s *fold.State) bool { return s.PartitionSeq() < next })
	switch {
	case err != nil:
		return err
	case state == nil:
		return m.gone(ctx, starts)
	}
	return refold.To(ctx, m.logs, state, wal.Last, handle)
}
