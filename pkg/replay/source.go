package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
)

// Source has messages to read again. There are two: the message log, and the write-ahead log, which
// the same messages are made from (package sequencer). In both a message has the same partition_seq and the same
// bytes, so all else of a replay is the same for both.
type Source interface {
	// Name is what the source is. A state file belongs to one.
	Name() string
	// Open opens the part of a partition.
	Open(ctx context.Context, partition int) (Log, error)
}

// Log is one partition of a source. Messages are named by their partition_seq.
type Log interface {
	// Plan finds the range of what is asked for. If the source surely no longer reaches back to the beginning
	// that is asked for, it may refuse with ErrGone and name the first message that it still has.
	Plan(ctx context.Context, asked Period) (Span, error)
	// Resume returns the partition_seq from which a replay continues that has everything before next: next or, if the source
	// has lost messages from there on and may report it, the one after them. The log must be the one that was
	// created at that time.
	Resume(ctx context.Context, created time.Time, next uint64) (uint64, error)
	// Range handles the messages from first to last, of these channels or, with none, of all. If it comes to some that the source has
	// lost and may say so, it ends with a [*LostError], and can be asked for those after them.
	Range(ctx context.Context, first, last uint64, channels []messagelog.Channel, handle func(messagelog.Entry) error) error
}

// Period is which messages of a partition to replay. What is zero is not asked for.
type Period struct {
	From, Until time.Time // of the messages; Until is the first that is not wanted
	FromSeq     uint64    // a partition_seq
}

// Span is the messages from First to Last by partition_seq, none if Last is First-1.
type Span struct {
	First, Last uint64
	Created     time.Time // when the log was created that the numbers are of
}

var (
	// ErrGone reports that the source no longer has messages that were asked for.
	ErrGone = errors.New("messages are gone")
	// errRecreated says that the numbers of a state are of a log that is gone.
	errRecreated = errors.New("was created again since the replay began; begin again with another --state")
)

// LostError says that the source has lost messages for good.
type LostError struct{ First, Last uint64 }

// Error says which.
func (e *LostError) Error() string { return fmt.Sprintf("messages %d to %d are gone", e.First, e.Last) }

// Is makes it an [ErrGone].
func (*LostError) Is(target error) bool { return target == ErrGone }

// SameLog returns an error if a log was not created at the time that a replay's was.
func SameLog(source string, partition int, created, replayed time.Time) error {
	if created.Equal(replayed) {
		return nil
	}
	return fmt.Errorf("partition %d: the %s %w", partition, source, errRecreated)
}

const messageLogName = "message log"

// messageLog reads the message log, of which retention takes the beginning.
type messageLog struct{ js jetstream.JetStream }

// NewMessageLog returns the message log as a source.
func NewMessageLog(js jetstream.JetStream) Source { return messageLog{js} }

func (messageLog) Name() string { return messageLogName }

func (s messageLog) Open(ctx context.Context, partition int) (Log, error) {
	log, err := messagelog.Open(ctx, s.js, partition)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("%w (what it held lately can be made again from the write-ahead log: --source=wal)", err)
	}
	return partitionLog{log}, err
}

type partitionLog struct{ *messagelog.Log }

// Plan begins with the first message that is there if no other beginning is asked for.
func (l partitionLog) Plan(ctx context.Context, asked Period) (Span, error) {
	bounds, err := l.Bounds(ctx)
	if err != nil {
		return Span{}, err
	}
	span := Span{Created: bounds.Created, First: max(bounds.First, asked.FromSeq), Last: bounds.Last}
	if !asked.From.IsZero() {
		if span.First, err = l.SeekTime(ctx, asked.From); err != nil {
			return Span{}, err
		}
	}
	if !asked.Until.IsZero() {
		end, err := l.SeekTime(ctx, asked.Until)
		if err != nil {
			return Span{}, err
		}
		span.Last = min(span.Last, end-1)
	}
	return span, nil
}

// Resume continues after what retention has removed.
func (l partitionLog) Resume(ctx context.Context, created time.Time, next uint64) (uint64, error) {
	bounds, err := l.Bounds(ctx)
	if err != nil {
		return 0, err
	}
	return max(next, bounds.First), SameLog(messageLogName, l.Partition(), bounds.Created, created)
}

// Range looks at all messages, for only their places tell that some are missing.
func (l partitionLog) Range(ctx context.Context, first, last uint64, channels []messagelog.Channel, handle func(messagelog.Entry) error) error {
	next, chosen := first, messagelog.Only(channels, handle)
	err := l.Log.Range(ctx, first, last, nil, func(e messagelog.Entry) error {
		if e.PartitionSeq > next {
			return &LostError{First: next, Last: e.PartitionSeq - 1}
		}
		next++
		return chosen(e)
	})
	if err == nil && next <= last {
		return &LostError{First: next, Last: last}
	}
	return err
}
