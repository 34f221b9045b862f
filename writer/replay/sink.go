// Package replay puts messages of the message log into ClickHouse again: into an empty table, or into one that
// lacks some of them.
package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	batchMax     = 50_000
	attempts     = 5
	attemptPause = time.Second
)

// Sink inserts what the table does not have. It asks the table before each batch, so that no message is there
// twice, whoever inserted it. An insert that a killed replay has left behind in the server carries the same
// token as its repetition, since a resumed replay begins with the same batch.
//
// It goes no further than the writer's recorded position: what comes behind is the writer's.
type Sink struct {
	js       jetstream.JetStream
	client   *clickhouse.Client
	log      *slog.Logger
	block    clickhouse.Block
	inserted uint64
	skipped  uint64
}

// New makes a sink. The tables are made or brought up to date.
func New(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, log *slog.Logger) (*Sink, error) {
	if err := client.Migrate(ctx); err != nil {
		return nil, err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	return &Sink{js: js, client: client, log: log}, nil
}

// Name names the table.
func (s *Sink) Name() string { return "table " + s.client.MessagesTable() }

// BatchMax is how many rows are inserted at once.
func (s *Sink) BatchMax() int { return batchMax }

// Begin has nothing to prepare: the table itself says what it has.
func (s *Sink) Begin(context.Context) (uint64, error) { return 0, nil }

// Restore has nothing to prepare: the table itself says what it has.
func (s *Sink) Restore(context.Context, uint64) error { return nil }

// End is the writer's position, or last where there has been no writer.
func (s *Sink) End(ctx context.Context, partition int, last uint64) (uint64, error) {
	done, err := writer.Done(ctx, s.js, partition)
	if err != nil || done == 0 {
		return last, err //nolint:wrapcheck // says what was being done
	}
	return min(done, last), nil
}

// Inserted is how many rows were inserted, and Skipped how many records are no messages.
func (s *Sink) Inserted() uint64 { return s.inserted }

// Skipped is how many records could not be rows: the writer has put them into the dead letters.
func (s *Sink) Skipped() uint64 { return s.skipped }

// Put inserts the records that have no row.
func (s *Sink) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	partition, first, last := batch[0].Partition, batch[0].Seq, batch[len(batch)-1].Seq
	for attempt := 1; ; attempt++ {
		err := s.put(ctx, partition, first, last, batch)
		if err == nil || attempt == attempts || ctx.Err() != nil || clickhouse.ClassOf(err) == clickhouse.Configuration || clickhouse.ClassOf(err) == clickhouse.Data {
			return 0, err
		}
		s.log.Warn("ClickHouse did not take the batch, trying again", "partition", partition, "first", first, "last", last, "error", err)
		if ended := lifecycle.Pause(ctx, attemptPause); ended != nil {
			return 0, errors.Join(err, ended)
		}
	}
}

func (s *Sink) put(ctx context.Context, partition int, first, last uint64, batch []messagelog.Entry) error {
	there, err := s.client.PartitionSeqs(ctx, partition, first, last)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	s.block.Reset()
	for _, r := range batch {
		if there[r.Seq] {
			continue
		}
		switch err := s.block.Append(r.Seq, r.Data); {
		case errors.Is(err, clickhouse.ErrUndecodable):
			s.skipped++
			s.log.Warn("a record is no message, it is left out", "partition", partition, "error", err)
		case err != nil:
			return err //nolint:wrapcheck // says which record
		}
	}
	rows := s.block.Rows()
	if rows == 0 {
		return nil
	}
	// The rows of a range are fixed by what the table had of it; their number and ends name them.
	token := fmt.Sprintf("replay/%d/%d-%d/%d/%d-%d", partition, first, last, rows, s.block.MessageID(0), s.block.MessageID(rows-1))
	if err := s.client.Insert(ctx, &s.block, 0, rows, token); err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	s.inserted += uint64(rows)
	return nil
}
