package messagelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// SeekTime returns the partition_seq of the first message whose message_id is of a time or of a later one; Last+1 if there is none. IDs
// grow along the log, which timestamps need not do: after the broker's clock has been ahead, IDs are ahead of the timestamps.
func (l *Log) SeekTime(ctx context.Context, at time.Time) (uint64, error) {
	milli := at.UnixMilli()
	found, err := l.seek(ctx, func(v *message.BatchView) bool { return v.NewestID.UnixMilli() >= milli })
	if err != nil || found.record == nil {
		return found.partitionSeq, err
	}
	for i, encoded := range found.record.Messages {
		if id, err := message.ViewID(encoded); err == nil && id.UnixMilli() >= milli { // who reads one that is damaged says so
			return found.record.First + uint64(i), nil
		}
	}
	return found.record.Next(), nil
}

// Locate returns the stream sequence of the record that holds a message, given its partition_seq, or of the next record if the
// log has no such message. Hint is the record that it, or the one before it, is in; 0 if nothing is known. A good one saves some twenty questions.
func (l *Log) Locate(ctx context.Context, partitionSeq, hint uint64) (uint64, error) {
	found, err := l.locate(ctx, partitionSeq, hint)
	return found.seq, err
}

// At returns the message with a partition_seq; see Locate for the hint. If the log does not have it, the error wraps [jetstream.ErrMsgNotFound].
func (l *Log) At(ctx context.Context, partitionSeq, hint uint64) (Entry, error) {
	found, err := l.locate(ctx, partitionSeq, hint)
	if err != nil {
		return Entry{}, err
	}
	if found.record == nil || partitionSeq < found.record.First {
		return Entry{}, fmt.Errorf("message %d of %s: %w", partitionSeq, l.name(), jetstream.ErrMsgNotFound)
	}
	return Entry{Partition: l.partition, PartitionSeq: partitionSeq, StreamSeq: found.seq, Data: found.record.Messages[partitionSeq-found.record.First]}, nil
}

func (l *Log) locate(ctx context.Context, partitionSeq, hint uint64) (sought, error) {
	const near = 2 // records that are tried
	for try := 0; hint > 0 && try < near; try++ {
		seq, view, err := l.recordFrom(ctx, hint)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			hint = 0
		case err != nil:
			return sought{}, err
		case view.First <= partitionSeq && partitionSeq < view.Next():
			return sought{&view, seq, view.First}, nil
		case view.First > partitionSeq:
			hint = 0
		default:
			hint = seq + 1
		}
	}
	return l.seek(ctx, func(v *message.BatchView) bool { return v.Next() > partitionSeq })
}

// sought is what seek has found: a record or, if record is nil, the end of the log as it was when the search began.
type sought struct {
	record       *message.BatchView
	seq          uint64 // the stream sequence
	partitionSeq uint64 // of its first message
}

// seek bisects for the first record of which reached is true; it is true of all later ones.
func (l *Log) seek(ctx context.Context, reached func(*message.BatchView) bool) (sought, error) {
	bounds, err := l.Records(ctx)
	if err != nil {
		return sought{}, err
	}
	low, high := bounds.First, bounds.Last+1 // it is in [low, high]
	found := sought{seq: high, partitionSeq: 1}
	for low < high {
		middle := low + (high-low)/2
		seq, view, err := l.recordFrom(ctx, middle)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound) || (err == nil && seq >= high):
			high = middle // there is none from here on
		case err != nil:
			return sought{}, err
		case reached(&view):
			found, high = sought{&view, seq, view.First}, middle
		default:
			low = seq + 1
			if found.record == nil { // the last record so far, and at last that of the log
				found.partitionSeq = view.Next()
			}
		}
	}
	return found, nil
}

// blockRecords is how many records of the log are looked through at first, and blockRecordsMax at most, on the way back from its end.
const (
	blockRecords    = 64
	blockRecordsMax = 4096
)

// LastMessageSeq is the highest message_seq of a channel, 0 if the log has no message of it. The log is read back from its end until
// there is one.
func (l *Log) LastMessageSeq(ctx context.Context, channel Channel) (uint64, error) {
	var last uint64
	err := l.back(ctx, channel, func(found []channelEntry) (more bool) {
		if len(found) > 0 {
			last = found[len(found)-1].messageSeq
		}
		return len(found) == 0
	})
	return last, err
}

// SeekMessageSeq returns the partition_seq of a channel's message with a message_seq or, if it is not kept any more, a higher one;
// if there is none, Last+1. The log is read back from its end until there is one with a lower one, since
// nothing tells where a channel's messages are.
func (l *Log) SeekMessageSeq(ctx context.Context, channel Channel, seq uint64) (uint64, error) {
	bounds, err := l.Bounds(ctx)
	if err != nil {
		return 0, err
	}
	partitionSeq := bounds.Last + 1
	err = l.back(ctx, channel, func(found []channelEntry) (more bool) {
		for i := len(found) - 1; i >= 0; i-- {
			if found[i].messageSeq < seq {
				return false
			}
			partitionSeq = min(partitionSeq, found[i].partitionSeq)
		}
		return true
	})
	return partitionSeq, err
}

// channelEntry is a message of a channel.
type channelEntry struct{ partitionSeq, messageSeq uint64 }

// back visits the messages of a channel that each block of records has, from the log's end to its beginning, while more are wanted.
func (l *Log) back(ctx context.Context, channel Channel, visit func([]channelEntry) (more bool)) error {
	bounds, err := l.Records(ctx)
	if err != nil {
		return err
	}
	size := uint64(blockRecords)
	for last := bounds.Last; last >= bounds.First && last > 0; {
		first := max(bounds.First, last-min(last, size)+1)
		var found []channelEntry
		err := l.rangeRecords(ctx, first, last, []Channel{channel}, func(e Entry) error {
			seq, err := message.ViewSeq(e.Data)
			found = append(found, channelEntry{e.PartitionSeq, seq})
			return err
		})
		if err != nil || !visit(found) {
			return err
		}
		last, size = first-1, min(2*size, blockRecordsMax)
	}
	return nil
}
