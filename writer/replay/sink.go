// Package replay inserts messages of the message log into ClickHouse again: into an empty table, or into one that lacks
// some of them.
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

// Sink inserts the rows that the table lacks, with a [writer.Filler].
//
// It stops at the writer's recorded position: later messages are the writer's.
type Sink struct {
	js       jetstream.JetStream
	client   *clickhouse.Client
	filler   *writer.Filler
	inserted uint64
}

// New returns a sink. It creates the tables or updates them. If they are replicated, an inserted row may become visible only
// after a while.
func New(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, replicated bool, log *slog.Logger) (*Sink, error) {
	if err := client.Migrate(ctx); err != nil {
		return nil, err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	return &Sink{js: js, client: client, filler: writer.NewFiller(client, replicated, log)}, nil
}

// Name returns the name of the table.
func (s *Sink) Name() string { return "table " + s.client.MessagesTable() }

// BatchMax returns the maximum number of rows per insert.
func (s *Sink) BatchMax() int { return batchMax }

// Begin starts a new replay.
func (s *Sink) Begin(context.Context) (uint64, error) {
	return s.filler.Mark, nil
}

// Restore continues a replay under its mark. The table itself shows what is inserted.
func (s *Sink) Restore(_ context.Context, mark uint64) error {
	s.filler.Mark = mark
	return nil
}

// End returns the writer's position, or last if no writer has run.
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

// Inserted returns the number of inserted rows.
func (s *Sink) Inserted() uint64 { return s.inserted }

// Skipped returns the number of records that could not become rows: the writer has put them into the dead letters.
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
