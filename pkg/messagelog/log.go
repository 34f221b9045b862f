package messagelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Record is one record of the message log.
type Record struct {
	Partition int
	Seq       uint64    // its stream sequence
	Stored    time.Time // by the broker; when the message was accepted is in its message_id
	Subject   string
	Data      []byte // an encoded Message
}

// Bounds are the first and last stream sequence of a partition. Of an empty log First is Last+1.
type Bounds struct {
	First, Last uint64
	Channels    uint64 // how many the log has messages of
	Created     time.Time
}

// Log is the message log of one partition.
type Log struct {
	js        jetstream.JetStream
	stream    jetstream.Stream
	partition int
}

// Open finds the message log of a partition.
func Open(ctx context.Context, js jetstream.JetStream, partition int) (*Log, error) {
	stream, err := js.Stream(ctx, topology.MessagesStream(partition))
	if err != nil {
		return nil, fmt.Errorf("look at the message log %s: %w", topology.MessagesStream(partition), err)
	}
	return &Log{js: js, stream: stream, partition: partition}, nil
}

// Partition is the number of the partition.
func (l *Log) Partition() int { return l.partition }

func (l *Log) name() string { return topology.MessagesStream(l.partition) }

// errNoLeader says that what a stream's servers tell may be old.
var errNoLeader = errors.New("none of its servers leads it at the moment: try again when one does")

// Bounds asks where the log begins and ends now. The stream's leader answers; where it has none, any of its servers does, and
// that is an error here.
func (l *Log) Bounds(ctx context.Context) (Bounds, error) {
	info, err := l.stream.Info(ctx)
	if err == nil && info.Cluster != nil && info.Cluster.Leader == "" {
		err = errNoLeader
	}
	if err != nil {
		return Bounds{}, fmt.Errorf("look at the message log %s: %w", l.name(), err)
	}
	b := Bounds{First: info.State.FirstSeq, Last: info.State.LastSeq, Channels: info.State.NumSubjects, Created: info.Created}
	if info.State.Msgs == 0 {
		b.First = b.Last + 1
	}
	return b, nil
}

// lastOf is the last sequence up to last that has a record of the subjects, or less than first if
// there is none from there on.
func (l *Log) lastOf(ctx context.Context, first, last uint64, subjects []string) (uint64, error) {
	bounds, err := l.Bounds(ctx)
	if err != nil {
		return 0, err
	}
	last = min(last, bounds.Last)
	if len(subjects) == 0 {
		if bounds.First > last {
			return 0, nil
		}
		return l.existing(ctx, max(first, bounds.First), last)
	}
	var found uint64
	for _, subject := range subjects {
		m, err := broker.LastRecord(ctx, l.js, l.name(), subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look for the last message on %s: %w", subject, err)
		}
		found = max(found, m.Sequence)
	}
	return min(found, last), nil
}

// existing goes back from last to a record that is there: the end of a range may have been deleted.
func (l *Log) existing(ctx context.Context, first, last uint64) (uint64, error) {
	for last >= first && last > 0 {
		_, err := broker.RecordAt(ctx, l.js, l.name(), last)
		if err == nil {
			return last, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, fmt.Errorf("look for message %d of partition %d: %w", last, l.partition, err)
		}
		last--
	}
	return 0, nil
}
