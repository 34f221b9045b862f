package messagelog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// The largest message that the server takes bounds what waits in memory; so many records, that they are
	// never what bounds it: the client would drop the server's word that it has sent what it may.
	prefetchRecords    = 64 << 10
	prefetchSlackBytes = 64 << 10

	// A consumer that gives nothing for this long, though the log has more, is replaced: consumers can stall. The
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
	subjects []string
	next     uint64 // the stream sequence to go on with
	messages jetstream.MessagesContext
	broken   bool // the consumer is; the next call makes another
	patience time.Duration
}

// Read reads from a stream sequence on, all subjects or only those given. Stop it in the end.
func (l *Log) Read(ctx context.Context, first uint64, subjects ...string) (*Reader, error) {
	r := &Reader{log: l, subjects: subjects, next: max(first, 1), patience: stallWaitMin}
	var err error
	if r.messages, err = r.consume(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Reader) consume(ctx context.Context) (jetstream.MessagesContext, error) {
	consumer, err := r.log.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    r.next,
		FilterSubjects: r.subjects,
		// Next makes a consumer that was lost anew. It would try for ever, and not see that its context ends.
		MaxResetAttempts: 1,
	})
	if err != nil {
		return nil, r.failed(err)
	}
	bytesMax := int(r.log.js.Conn().MaxPayload()) + prefetchSlackBytes
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(prefetchRecords, bytesMax))
	if err != nil {
		return nil, r.failed(err)
	}
	return messages, nil
}

func (r *Reader) failed(err error) error {
	return fmt.Errorf("read the message log of partition %d from %d: %w", r.log.partition, r.next, err)
}

// Stop lets go of the consumer. Next must not be called any more.
func (r *Reader) Stop() { r.messages.Stop() }

// Next waits for the next record, or until ctx ends. [ErrQuiet] is no failure: it may be called again, and so it may after any
// other error, where the broker may be back.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		if ctx.Err() != nil { // before a record is taken that nobody would get
			return Record{}, context.Cause(ctx)
		}
		if r.broken {
			if err := r.replace(ctx); err != nil {
				return Record{}, err
			}
		}
		record, quiet, err := r.within(ctx, r.patience)
		switch {
		case err == nil && !quiet && record.Seq < r.next:
			continue // the client has made its consumer anew, a little before where it was
		case err == nil && !quiet:
			r.next, r.patience = record.Seq+1, stallWaitMin
			return record, nil
		case ctx.Err() != nil:
			return Record{}, context.Cause(ctx)
		}
		r.patience = min(2*r.patience, stallWaitMax)
		if err != nil {
			r.broken = true
			return Record{}, err
		}
		last, err := r.log.lastOf(ctx, r.next, math.MaxUint64, r.subjects)
		if err != nil {
			return Record{}, err
		}
		if last < r.next {
			return Record{}, ErrQuiet
		}
		r.broken = true
	}
}

// replace goes on with a new consumer.
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
func (r *Reader) within(ctx context.Context, patience time.Duration) (record Record, quiet bool, err error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	record, err = r.receive(wait)
	if errors.Is(err, context.DeadlineExceeded) && wait.Err() != nil {
		return record, true, nil
	}
	return record, false, err
}

// receive gives the next record that the consumer has.
func (r *Reader) receive(ctx context.Context) (Record, error) {
	m, err := r.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return Record{}, r.failed(err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return Record{}, r.failed(err)
	}
	return Record{Partition: r.log.partition, Seq: meta.Sequence.Stream, Stored: meta.Timestamp, Subject: m.Subject(), Data: m.Data()}, nil
}
