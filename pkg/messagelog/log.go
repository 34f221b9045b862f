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

// Entry is one message of the log.
type Entry struct {
	Partition    int
	PartitionSeq uint64    // its number among all messages of the partition
	StreamSeq    uint64    // of the record that it is in
	Stored       time.Time // its record, by the broker; when the message was accepted it says itself
	Data         []byte    // an encoded Message
}

// Channel names a channel.
type Channel struct {
	ID   string // canonical
	Type message.ChannelType
}

// Bounds are the partition_seqs of the first and last message of a partition. Of an empty log First is Last+1.
type Bounds struct {
	First, Last uint64
	// Gone says that there have been records and all of them are deleted: the next partition_seq is then only known when
	// it does, and First is 1.
	Gone    bool
	Created time.Time
}

// Log is the message log of one partition.
type Log struct {
	js        jetstream.JetStream
	stream    jetstream.Stream
	partition int
}

// Derivable reports whether a record that the log lacks is to be derived again by the partition's sequencer: the write-ahead
// log still has it, and it is not missing because of the log's own limits. Until then a reader that must not miss it waits.
// After a power loss records can be missing from the middle of a log that is persisted asynchronously.
func (l *Log) Derivable(ctx context.Context, record uint64) (bool, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("look at the message log %s: %w", l.name(), err)
	}
	name := topology.WALStream(l.partition)
	stream, err := l.js.Stream(ctx, name)
	if err != nil {
		return false, fmt.Errorf("look at the write-ahead log %s: %w", name, err)
	}
	wal, log := stream.CachedInfo().State, info.State
	if record < wal.FirstSeq || record > wal.LastSeq || wal.Msgs == 0 {
		return false, nil
	}
	if log.Msgs == 0 || record >= log.FirstSeq {
		return true, nil
	}
	largest := uint64(l.js.Conn().MaxPayload())
	full := info.Config.MaxBytes > 0 && log.Bytes+largest >= uint64(info.Config.MaxBytes)
	old := info.Config.MaxAge > 0 && info.TimeStamp.Sub(wal.FirstTime) >= info.Config.MaxAge
	return !full && !old, nil
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

// Records are the stream sequences of the first and last record. Of an empty log First is Last+1.
type Records struct {
	First, Last uint64
	Created     time.Time // the stream
}

// Records asks where the log begins and ends now. The stream's leader answers; if it has none, any of its servers does, and
// that is an error here.
func (l *Log) Records(ctx context.Context) (Records, error) {
	info, err := l.stream.Info(ctx)
	if err == nil && info.Cluster != nil && info.Cluster.Leader == "" {
		err = errNoLeader
	}
	if err != nil {
		return Records{}, fmt.Errorf("look at the message log %s: %w", l.name(), err)
	}
	r := Records{First: info.State.FirstSeq, Last: info.State.LastSeq, Created: info.Created}
	if info.State.Msgs == 0 {
		r.First = r.Last + 1
	}
	return r, nil
}

// Bounds asks where the log begins and ends now.
func (l *Log) Bounds(ctx context.Context) (Bounds, error) {
	for {
		r, err := l.Records(ctx)
		if err != nil {
			return Bounds{}, err
		}
		b := Bounds{First: 1, Gone: r.Last > 0 && r.First > r.Last, Created: r.Created}
		if r.First > r.Last {
			return b, nil
		}
		_, first, err := l.recordFrom(ctx, r.First)
		if err == nil {
			b.First = first.First
			b.Last, err = l.lastPartitionSeq(ctx, r)
		}
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // retention took it meanwhile
		}
		return b, err
	}
}

// lastPartitionSeq is that of the last message.
func (l *Log) lastPartitionSeq(ctx context.Context, r Records) (uint64, error) {
	_, view, err := l.recordFrom(ctx, r.Last)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // deleted by hand
		last, failed := l.existing(ctx, r.First, r.Last)
		if failed != nil {
			return 0, failed
		}
		_, view, err = l.recordFrom(ctx, last)
	}
	return view.Next() - 1, err
}

// recordFrom asks the leader for the first record from a stream sequence on; [jetstream.ErrMsgNotFound] if there is none.
func (l *Log) recordFrom(ctx context.Context, seq uint64) (uint64, message.BatchView, error) {
	var view message.BatchView
	raw, err := broker.NextRecord(ctx, l.js, l.name(), seq, topology.MessagesSubject(l.partition))
	if err == nil {
		if err = message.ViewBatch(raw.Data, &view); err == nil {
			return raw.Sequence, view, nil
		}
		seq = raw.Sequence
	}
	return 0, view, fmt.Errorf("record %d of %s: %w", seq, l.name(), err)
}

// existing goes back from last to a record that is there: the end of a range may have been deleted.
func (l *Log) existing(ctx context.Context, first, last uint64) (uint64, error) {
	for last >= first && last > 0 {
		_, err := broker.RecordAt(ctx, l.js, l.name(), last)
		if err == nil {
			return last, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, fmt.Errorf("look for record %d of %s: %w", last, l.name(), err)
		}
		last--
	}
	return 0, nil
}
