package messagelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	// A consumer that delivers nothing for this long, though the log has more, is replaced: consumers can stall. The
	// reader waits longer each time, for a broker that is only slow, and not to ask often about a log that is only
	// quiet.
	stallWaitMin = 2 * time.Second
	stallWaitMax = 30 * time.Second
)

// ErrQuiet says that no record has come for a while, and that the log's leader has none from there on either.
var ErrQuiet = errors.New("the message log has nothing more at the moment")

// Reader reads a log in its order, with a new consumer where one stalls or breaks. It is not safe for concurrent use.
type Reader struct {
	log      *Log
	next     uint64 // the stream sequence that comes next
	messages *broker.OrderedReader
	broken   bool // the consumer is; the next call makes another
	patience time.Duration

	from   uint64 // messages before this partition_seq are skipped
	record Record // read last, and given up to at
	at     int
}

// Record is a record of the log. What it holds is valid until the next one is read.
type Record struct {
	Partition int
	Seq       uint64 // its stream sequence, and that of the record of the write-ahead log that it was made from
	Stored    time.Time
	Data      []byte // an encoded MessageBatch
	Batch     message.BatchView
}

// Entry is one of its messages.
func (r *Record) Entry(i int) Entry {
	return Entry{Partition: r.Partition, PartitionSeq: r.Batch.First + uint64(i), StreamSeq: r.Seq, Stored: r.Stored, Data: r.Batch.Messages[i]}
}

// Read reads from a partition_seq on. Stop it in the end.
func (l *Log) Read(ctx context.Context, first uint64) (*Reader, error) {
	record, err := l.Locate(ctx, first, 0)
	if err != nil {
		return nil, err
	}
	r, err := l.ReadRecords(ctx, record)
	if err != nil {
		return nil, err
	}
	r.from = first
	return r, nil
}

// ReadRecords reads from a stream sequence on. Stop it in the end.
func (l *Log) ReadRecords(ctx context.Context, first uint64) (*Reader, error) {
	r := &Reader{log: l, next: max(first, 1), patience: stallWaitMin}
	var err error
	if r.messages, err = r.consume(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Reader) consume(ctx context.Context) (*broker.OrderedReader, error) {
	messages, err := broker.ReadOrdered(ctx, r.log.js, r.log.name(), r.next)
	if err != nil {
		return nil, r.failed(err)
	}
	return messages, nil
}

func (r *Reader) failed(err error) error {
	return fmt.Errorf("read the message log of partition %d from record %d: %w", r.log.partition, r.next, err)
}

// Stop lets go of the consumer. Next must not be called any more.
func (r *Reader) Stop() { r.messages.Stop() }

// Next waits for the next message, or until ctx ends. [ErrQuiet] is no failure: it may be called again, and so it may after any
// other error, where the broker may be back.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	for {
		if ctx.Err() != nil { // before a message is taken and lost
			return Entry{}, context.Cause(ctx)
		}
		for r.at < len(r.record.Batch.Messages) {
			r.at++
			if entry := r.record.Entry(r.at - 1); entry.PartitionSeq >= r.from {
				return entry, nil
			}
		}
		if _, err := r.NextRecord(ctx); err != nil {
			return Entry{}, err
		}
	}
}

// NextRecord is Next for a whole record. What is left of the last one is passed over.
func (r *Reader) NextRecord(ctx context.Context) (*Record, error) {
	for {
		if r.broken {
			if err := r.replace(ctx); err != nil {
				return nil, err
			}
		}
		seq, quiet, err := r.within(ctx, r.patience)
		switch {
		case err == nil && !quiet && seq < r.next:
			continue // the client has replaced its consumer by one that starts a little earlier
		case err == nil && !quiet:
			r.next, r.patience = seq+1, stallWaitMin
			return &r.record, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		r.patience = min(2*r.patience, stallWaitMax)
		if err != nil {
			r.broken = true
			return nil, err
		}
		bounds, err := r.log.Records(ctx)
		if err != nil {
			return nil, err
		}
		last, err := r.log.existing(ctx, max(r.next, bounds.First), bounds.Last)
		if err != nil {
			return nil, err
		}
		if last < r.next {
			return nil, ErrQuiet
		}
		r.broken = true
	}
}

// through reports whether a reader that finds nothing more, of a log that had a record and a message, has read everything: what came after has
// been deleted. If the log ends before them now, that is an error. It looks at the end first, since that may come back meanwhile.
func (r *Reader) through(ctx context.Context, had, partitionSeq uint64) (bool, error) {
	records, err := r.log.Records(ctx)
	if err != nil {
		return false, err
	}
	if records.Last < had {
		return false, fmt.Errorf("%s ends with record %d and had %d: %w", r.log.name(), records.Last, had, ErrTailLost)
	}
	last, err := r.log.existing(ctx, max(r.next, records.First), records.Last)
	if err != nil || last >= r.next {
		return false, err
	}
	return true, r.reached(ctx, records.Last, partitionSeq)
}

// reached is an error if the last record is there and the messages end before a partition_seq. If the record was deleted, that cannot be known.
func (r *Reader) reached(ctx context.Context, last, partitionSeq uint64) error {
	newest := r.record.Batch
	if r.record.Seq != last {
		var err error
		if _, newest, err = r.log.recordFrom(ctx, last); errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		} else if err != nil {
			return err
		}
	}
	if next := max(newest.Next(), 1); next <= partitionSeq {
		return fmt.Errorf("%s ends with message %d and had %d: %w", r.log.name(), next-1, partitionSeq, ErrTailLost)
	}
	return nil
}

// replace continues with a new consumer.
func (r *Reader) replace(ctx context.Context) error {
	fresh, err := r.consume(ctx)
	if err != nil {
		return err
	}
	r.messages.Stop()
	r.messages, r.broken = fresh, false
	return nil
}

// within waits for the next record for some time: quiet says that nothing came.
func (r *Reader) within(ctx context.Context, patience time.Duration) (seq uint64, quiet bool, err error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	seq, err = r.receive(wait)
	if errors.Is(err, context.DeadlineExceeded) && wait.Err() != nil {
		return 0, true, nil
	}
	return seq, false, err
}

// receive takes the next record that the consumer has.
func (r *Reader) receive(ctx context.Context) (uint64, error) {
	m, err := r.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return 0, r.failed(err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return 0, r.failed(err)
	}
	if meta.Sequence.Stream < r.next {
		return meta.Sequence.Stream, nil
	}
	r.at = 0
	r.record.Partition, r.record.Seq, r.record.Stored, r.record.Data = r.log.partition, meta.Sequence.Stream, meta.Timestamp, m.Data()
	if err := message.ViewBatch(r.record.Data, &r.record.Batch); err != nil {
		r.at = len(r.record.Batch.Messages)
		return 0, fmt.Errorf("record %d of %s: %w", meta.Sequence.Stream, r.log.name(), err)
	}
	return meta.Sequence.Stream, nil
}
