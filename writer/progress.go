package writer

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Progress says how far a partition of the message log is in ClickHouse.
type Progress struct {
	// StreamCreated is when the stream was created that Done is of.
	StreamCreated time.Time
	// Done is the last place whose message is in ClickHouse, or is a dead letter or lost. 0 means none.
	Done uint64
	// DoneRecord is the stream sequence of the record that holds it, 0 if not known.
	DoneRecord uint64
}

// progressTimeout bounds one look at a record.
const progressTimeout = 2 * time.Second

// ReadProgress reads what the writers have recorded of a partition in topology.WriterBucket; it is zero where they have recorded nothing. Rows
// up to Done were visible before it was recorded.
func ReadProgress(ctx context.Context, bucket jetstream.KeyValue, partition int) (Progress, error) {
	p, err := (&positions{kv: bucket, key: positionKey(partition), timeout: progressTimeout}).load(ctx)
	return Progress{StreamCreated: p.StreamCreated, Done: p.Done, DoneRecord: p.DoneRecord}, err
}
