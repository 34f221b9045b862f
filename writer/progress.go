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
