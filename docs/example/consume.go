// Package example is the Go example of docs/howto/read-the-log.md; its test runs it, and compares the page with it.
package example

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message" // or generated from message.proto
)

// Consume calls handle with the records of a partition, in order, starting after a stream sequence; 0 starts
// with the first record that the log still has. handle must record the sequence together with what it does
// with the messages, of which there may be none; after a crash, continue after that sequence.
func Consume(
	ctx context.Context, js jetstream.JetStream, partition int, after uint64,
	handle func(seq uint64, batch *message.MessageBatch) error,
) error {
	consumer, err := js.OrderedConsumer(ctx, fmt.Sprintf("MESSAGES_%d", partition), jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   after + 1,
	})
	if err != nil {
		return err
	}
	records, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer records.Stop()
	for {
		record, err := records.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := record.Metadata()
		if err != nil {
			return err
		}
		seq := meta.Sequence.Stream
		if seq <= after {
			continue // the log was lost and is being derived again: it is the same record
		}
		if after > 0 && seq != after+1 {
			return fmt.Errorf("partition %d: records %d to %d are gone: retention removed them", partition, after+1, seq-1)
		}
		var batch message.MessageBatch
		if err := batch.UnmarshalVT(record.Data()); err != nil { // proto.Unmarshal, with generated code of your own
			return fmt.Errorf("partition %d, record %d: %w", partition, seq, err)
		}
		if err := handle(seq, &batch); err != nil {
			return err
		}
		after = seq
	}
}
