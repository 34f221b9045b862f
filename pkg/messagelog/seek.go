package messagelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// SeekTime finds the first record whose message was accepted at a time or after it; Last+1 where
// there is none.
func (l *Log) SeekTime(ctx context.Context, at time.Time) (uint64, error) {
	milli := at.UnixMilli()
	return l.seek(ctx, topology.MessagesSubjects(l.partition), func(m *message.Message) bool {
		return message.ID(m.GetMessageId()).UnixMilli() >= milli
	})
}

// SeekMessageSeq finds the record of a channel that has a message_seq or, if it is not kept any
// more, a higher one; Last+1 where there is none.
func (l *Log) SeekMessageSeq(ctx context.Context, subject string, seq uint64) (uint64, error) {
	return l.seek(ctx, subject, func(m *message.Message) bool { return m.GetMessageSeq() >= seq })
}

// LastMessageSeq is the highest message_seq of the channel, 0 where the log has no message of it.
func (l *Log) LastMessageSeq(ctx context.Context, subject string) (uint64, error) {
	raw, err := broker.LastRecord(ctx, l.js, l.name(), subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for the last message on %s: %w", subject, err)
	}
	var m message.Message
	if err := m.UnmarshalVT(raw.Data); err != nil {
		return 0, fmt.Errorf("record %d of partition %d: %w", raw.Sequence, l.partition, err)
	}
	return m.GetMessageSeq(), nil
}

// seek bisects for the first record on a subject of which reached is true; of all behind it, it is.
func (l *Log) seek(ctx context.Context, subject string, reached func(*message.Message) bool) (uint64, error) {
	bounds, err := l.Bounds(ctx)
	if err != nil {
		return 0, err
	}
	low, high := bounds.First, bounds.Last+1 // it is in [low, high]
	found := high
	for low < high {
		middle := low + (high-low)/2
		raw, err := broker.NextRecord(ctx, l.js, l.name(), middle, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			high = middle // there is none from here on
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look for a place in partition %d: %w", l.partition, err)
		}
		var m message.Message
		if err := m.UnmarshalVT(raw.Data); err != nil {
			return 0, fmt.Errorf("record %d of partition %d: %w", raw.Sequence, l.partition, err)
		}
		if reached(&m) {
			found, high = raw.Sequence, middle
		} else {
			low = raw.Sequence + 1
		}
	}
	return found, nil
}
