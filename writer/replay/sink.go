// Package replay puts messages of the message log into ClickHouse again: into an empty table, or into one that
// lacks some of them.
package replay

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	batchMax     = 50_000
	attempts     = 5
	attemptPause = time.Second
	// replicaPauseMax is the longest pause between two questions to a cluster whether the rows that it took are there. The first
	// is attemptPause and each is twice the last, so a replica may be half a minute behind.
	replicaPauseMax = 16 * time.Second
	// expiryMargin is how long before its time a row may be missed: the server's clock may be ahead.
	expiryMargin = time.Minute
)

// Sink inserts what the table does not have. It asks the table before each batch, so that no message is there
// twice, whoever inserted it, and after it, so that none is taken for inserted that is not.
//
// The token of an insert says which rows it has, so one that a killed replay has left behind in the server has the
// same as its repetition. ClickHouse also remembers the token of rows that were deleted since, and inserts nothing
// then: what is still missing is inserted once more, under a token of this replay.
//
// It goes no further than the writer's recorded position: what comes behind is the writer's.
type Sink struct {
	js         jetstream.JetStream
	client     *clickhouse.Client
	digester   *clickhouse.Digester
	replicated bool
	log        *slog.Logger
	mark       uint64 // of this replay, also where it is gone on with
	block      clickhouse.Block
	inserted   uint64
	skipped    uint64
}

// New makes a sink. The tables are made or brought up to date. Where they are replicated, a row that was inserted may be seen
// only after a while.
func New(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, replicated bool, log *slog.Logger) (*Sink, error) {
	if err := client.Migrate(ctx); err != nil {
		return nil, err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	return &Sink{js: js, client: client, digester: client.Digester(), replicated: replicated, log: log}, nil
}

// Name names the table.
func (s *Sink) Name() string { return "table " + s.client.MessagesTable() }

// BatchMax is how many rows are inserted at once.
func (s *Sink) BatchMax() int { return batchMax }

// Begin marks a new replay.
func (s *Sink) Begin(context.Context) (uint64, error) {
	s.mark = rand.Uint64()
	return s.mark, nil
}

// Restore goes on under the mark of the replay. What was inserted the table itself says.
func (s *Sink) Restore(_ context.Context, mark uint64) error {
	s.mark = mark
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
func (s *Sink) Skipped() uint64 { return s.skipped }

// Put inserts the records that have no row.
func (s *Sink) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	lacking, err := s.lacking(ctx, batch)
	if err != nil {
		return 0, err
	}
	for _, suffix := range []string{"", fmt.Sprintf("/%016x", s.mark)} {
		if lacking, err = s.fill(lacking); err != nil {
			return 0, err
		}
		if len(lacking) == 0 {
			return s.mark, nil
		}
		if err := s.insert(ctx, lacking, s.token(lacking)+suffix); err != nil {
			return 0, err
		}
		rows := len(lacking)
		if lacking, err = s.settled(ctx, lacking); err != nil {
			return 0, err
		}
		s.inserted += uint64(rows - len(lacking))
	}
	if len(lacking) > 0 {
		return 0, fmt.Errorf("partition %d: ClickHouse took %d messages of partition_seq %d to %d twice, and %s has no rows of them: "+
			"see whether something removes rows there (a TTL, a mutation) or a replica is far behind, then start the replay again",
			lacking[0].Partition, len(lacking), lacking[0].Seq, lacking[len(lacking)-1].Seq, s.Name())
	}
	return s.mark, nil
}

// fill makes the block of records, and gives those that are in it.
func (s *Sink) fill(records []messagelog.Entry) ([]messagelog.Entry, error) {
	s.block.Reset()
	var in []messagelog.Entry
	for _, r := range records {
		switch err := s.block.Append(r.Seq, r.Data); {
		case errors.Is(err, clickhouse.ErrUndecodable):
			s.skipped++
			s.log.Warn("a record is no message, it is left out", "partition", r.Partition, "error", err)
		case err != nil:
			return nil, err //nolint:wrapcheck // says which record
		default:
			in = append(in, r)
		}
	}
	return in, nil
}

// token names the rows of the block by their number, ends and a digest of which they are.
func (s *Sink) token(records []messagelog.Entry) string {
	var places []byte
	for i, r := range records {
		places = binary.BigEndian.AppendUint64(places, r.Seq)
		places = binary.BigEndian.AppendUint64(places, uint64(s.block.MessageID(i)))
	}
	digest := sha256.Sum256(places)
	return fmt.Sprintf("replay/%d/%d-%d/%d/%x", records[0].Partition, records[0].Seq, records[len(records)-1].Seq, len(records), digest[:16])
}

// insert inserts the block of the records. Where it fails it is repeated as it was, under the same token: the
// server may still be at work on the first.
func (s *Sink) insert(ctx context.Context, records []messagelog.Entry, token string) error {
	for attempt := 1; ; attempt++ {
		err := s.client.Insert(ctx, &s.block, 0, len(records), token)
		if err == nil {
			return nil
		}
		if err := s.pause(ctx, attempt, err); err != nil {
			return err
		}
		// The reduced schema knows no tokens: what only the answer was lost of must not be given to it again.
		if lacking, err := s.lacking(ctx, records); err != nil || len(lacking) == 0 {
			return err
		}
	}
}

// settled gives the records that have no row though they were inserted, and whose time has not come. Of a cluster the replica that
// answers may be behind the one that took them.
func (s *Sink) settled(ctx context.Context, records []messagelog.Entry) ([]messagelog.Entry, error) {
	for pause := attemptPause; ; pause *= 2 {
		lacking, err := s.lacking(ctx, records)
		if err == nil {
			lacking, err = s.unexpired(lacking)
		}
		if err != nil || len(lacking) == 0 || !s.replicated || pause > replicaPauseMax {
			return lacking, err
		}
		if err := lifecycle.Pause(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// unexpired leaves out those whose rows ClickHouse may have removed already.
func (s *Sink) unexpired(records []messagelog.Entry) ([]messagelog.Entry, error) {
	by := uint64(time.Now().Add(expiryMargin).Unix())
	var out []messagelog.Entry
	for _, r := range records {
		d, err := s.digester.Digest(r.Seq, r.Data)
		if err != nil {
			return nil, err //nolint:wrapcheck // says which record
		}
		if d.Expires == 0 || d.Expires > by {
			out = append(out, r)
		}
	}
	return out, nil
}

// lacking asks the table which of the records have no row.
func (s *Sink) lacking(ctx context.Context, records []messagelog.Entry) ([]messagelog.Entry, error) {
	for attempt := 1; ; attempt++ {
		there, err := s.client.PartitionSeqs(ctx, records[0].Partition, records[0].Seq, records[len(records)-1].Seq)
		if err == nil {
			var out []messagelog.Entry
			for _, r := range records {
				if !there[r.Seq] {
					out = append(out, r)
				}
			}
			return out, nil
		}
		if err := s.pause(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

// pause comes before another attempt. Where there is to be none it gives the error of the last.
func (s *Sink) pause(ctx context.Context, attempt int, err error) error {
	class := clickhouse.ClassOf(err)
	if attempt == attempts || ctx.Err() != nil || class == clickhouse.Configuration || class == clickhouse.Data {
		return err
	}
	s.log.Warn("ClickHouse does not do what it is asked for, trying again", "error", err)
	if ended := lifecycle.Pause(ctx, attemptPause); ended != nil {
		return errors.Join(err, ended)
	}
	return nil
}
