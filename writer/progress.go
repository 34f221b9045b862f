package writer

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Progress is how far a partition of the message log is in ClickHouse.
type Progress struct {
	// StreamCreated is the creation time of the stream that Done belongs to.
	StreamCreated time.Time
	// Done is the last partition_seq whose message is in ClickHouse, is a dead letter, or is lost; 0 if there is none.
	Done uint64
	// DoneRecord is the stream_seq of the record that holds it, 0 if unknown.
	DoneRecord uint64
}

// progressTimeout limits one read of a record.
const progressTimeout = 2 * time.Second

// ReadProgress reads what the writers have recorded of a partition in topology.WriterBucket, zero if they have recorded
// nothing. Rows up to Done were visible before it was recorded.
func ReadProgress(ctx context.Context, bucket jetstream.KeyValue, partition int) (Progress, error) {
	p, err := (&positions{kv: bucket, key: positionKey(partition), timeout: progressTimeout}).load(ctx)
	return Progress{StreamCreated: p.StreamCreated, Done: p.Done, DoneRecord: p.DoneRecord}, err
}

const doneTimeout = 5 * time.Second

// Recorded is what the writers have recorded of a partition.
type Recorded struct {
	// Any reports whether there is a record. A writer at its first batch has one with nothing done.
	Any bool
	// Done is the last partition_seq up to which every message is in ClickHouse, is a dead letter, or is recorded as
	// lost; 0 if none is.
	Done uint64
	// Begun is the last partition_seq of the range that is being inserted, which may have rows already; Done if there
	// is no such range.
	Begun uint64
}

// Done reads what is recorded of a partition.
func Done(ctx context.Context, js jetstream.JetStream, partition int) (Recorded, error) {
	kv, err := openBucket(ctx, js)
	if err != nil {
		return Recorded{}, err
	}
	p, err := (&positions{kv: kv, key: positionKey(partition), timeout: doneTimeout}).load(ctx)
	r := Recorded{Any: p.revision != 0, Done: p.Done, Begun: p.Done}
	if p.Pending != nil {
		r.Begun = p.Pending.Last
	}
	return r, err
}
