// Package replay puts messages of the message log into ClickHouse again: into an empty table, or into one that
// lacks some of them.
package replay

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const batchMax = 50_000

// Sink inserts what the table does not have, with a [writer.Filler].
//
// It goes no further than the writer's recorded position: what comes behind is the writer's.
type Sink struct {
	js       jetstream.JetStream
	client   *clickhouse.Client
	filler   *writer.Filler
	inserted uint64
}

// New makes a sink. The tables are made or brought up to date. Where they are replicated, a row that was inserted may be seen
// only after a while.
func New(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, replicated bool, log *slog.Logger) (*Sink, error) {
	if err := client.Migrate(ctx); err != nil {
		return nil, err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	return &Sink{js: js, client: client, filler: writer.NewFiller(client, replicated, log)}, nil
}

// Name names the table.
func (s *Sink) Name() string { return "table " + s.client.MessagesTable() }

// BatchMax is how many rows are inserted at once.
func (s *Sink) BatchMax() int { return batchMax }

// Begin marks a new replay.
func (s *Sink) Begin(context.Context) (uint64, error) {
	return s.filler.Mark, nil
}

// Restore goes on under the mark of the replay. What was inserted the table itself says.
func (s *Sink) Restore(_ context.Context, mark uint64) error {
	s.filler.Mark = mark
	return nil
}

// End is the writer's position, or last where there has been no writer.
func (s *Sink) End(ctx context.Context, partition int, last uint64) (uint64, error) {
	recorded, err := writer.Done(ctx, s.js, partition)
	if err != nil {
		return 0, err //nolint:wrapcheck // says what was being done
	}
	if !recorded.Any {
		return last, nil
	}
	return min(recorded.Done, last), nil
}

// Inserted is how many rows were inserted, and Skipped how many records are no messages.
func (s *Sink) Inserted() uint64 { return s.inserted }

// Skipped is how many records could not be rows: the writer has put them into the dead letters.
func (s *Sink) Skipped() uint64 { return s.filler.Skipped() }

// Put inserts the records that have no row.
func (s *Sink) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	inserted, err := s.filler.Fill(ctx, batch)
	s.inserted += inserted
	if err != nil {
		return 0, err
	}
	return s.filler.Mark, nil
}
