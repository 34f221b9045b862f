package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// admitTimeout bounds the question to ClickHouse which rows of a partition it has. Sends are accepted even if ClickHouse does not answer.
const admitTimeout = 5 * time.Second

// Admit returns the check that a sequencer beside a writer makes before it serves a partition: aheadOfLog, if ClickHouse answers in time.
func Admit(js jetstream.JetStream, client *clickhouse.Client, log *slog.Logger) func(ctx context.Context, partition int) error {
	return func(ctx context.Context, partition int) error {
		ctx, cancel := context.WithTimeout(ctx, admitTimeout)
		defer cancel()
		err := aheadOfLog(ctx, js, client, partition)
		if err != nil && !isRefusal(err) {
			log.Warn("cannot compare the write-ahead log with the table; starting the partition without the comparison", "partition", partition, "error", err)
			return nil
		}
		return err
	}
}

// aheadOfLog refuses a partition if the table has rows of messages after the end of the partition's logs. A newer
// log, now lost, assigned their sequence numbers, and the current one would assign them again. Records that ingest has
// appended to the write-ahead log since do not hide this: a row's timestamp is never older than the record that it was
// made from, unless the clock of the record is beyond what a message can carry. The query skips parts that are older
// than the message log's last message.
func aheadOfLog(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, partition int) error {
	emitted, since, err := emittedUntil(ctx, js, partition)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, topology.WALStream(partition))
	if err != nil {
		return fmt.Errorf("read the state of the write-ahead log: %w", err)
	}
	end := stream.CachedInfo().State.LastSeq
	last, found, err := client.LastRow(ctx, partition, since)
	if err != nil || !found || last.WALSeq <= min(emitted, end) {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if last.WALSeq <= end {
		record, err := broker.RecordAt(ctx, js, topology.WALStream(partition), last.WALSeq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil // trimmed, so it was sequenced
		}
		if err != nil {
			return fmt.Errorf("read record %d of the write-ahead log: %w", last.WALSeq, err)
		}
		if at := record.Time.UnixMilli(); at <= last.AcceptedAt.UnixMilli() || at >= message.FollowedMilliMax {
			return nil // the sequencer has yet to derive these messages
		}
		end = emitted // later records were appended after the loss
	}
	return refuseTable("database %s has rows of partition %d that were made from record %d of the write-ahead log, which ends at record %d: the streams are older than the table, or were lost, and the sequencer would assign the same sequence numbers again. Restore NATS as it was. To give up those rows instead, delete them, and the partition is sequenced again: "+
		"ALTER TABLE %s.messages DELETE WHERE partition = %d AND wal_seq > %d SETTINGS mutations_sync = 2",
		client.Database(), partition, last.WALSeq, end, client.Database(), partition, min(emitted, end))
}

// emittedUntil returns the last record of the message log and a time before the timestamps of all later rows; zero if unknown.
func emittedUntil(ctx context.Context, js jetstream.JetStream, partition int) (uint64, time.Time, error) {
	log, err := messagelog.Open(ctx, js, partition)
	if err != nil {
		return 0, time.Time{}, err //nolint:wrapcheck // it says what was being done
	}
	records, err := log.Records(ctx)
	if err != nil || records.First > records.Last {
		return records.Last, time.Time{}, err //nolint:wrapcheck // it says what was being done
	}
	record, err := broker.RecordAt(ctx, js, topology.MessagesStream(partition), records.Last)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return records.Last, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("read record %d of the message log: %w", records.Last, err)
	}
	var batch message.BatchView
	if err := message.ViewBatch(record.Data, &batch); err != nil || len(batch.Messages) == 0 {
		return records.Last, time.Time{}, nil //nolint:nilerr // the sequencer reports a record that is not a batch
	}
	return records.Last, rowsSince(batch.Messages[len(batch.Messages)-1]), nil
}
