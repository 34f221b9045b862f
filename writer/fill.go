package writer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	fillAttempts     = 5
	fillAttemptPause = time.Second
	// replicaPauseMax is the longest pause between two queries of a cluster for inserted rows. The first pause is
	// fillAttemptPause, and each is twice the last, so a replica may lag by half a minute.
	replicaPauseMax = 16 * time.Second
	// expiryMargin is how long before its expiry a row may already be missing: the server's clock may be ahead.
	expiryMargin = time.Minute
)

// store is the part of the ClickHouse client that inserts rows and queries them.
type store interface {
	Insert(ctx context.Context, b *clickhouse.Block, first, end int, token string) error
	CountRange(ctx context.Context, partition int, first, last uint64) (uint64, error)
	Messages(ctx context.Context, span clickhouse.Span) (map[clickhouse.MessageAt]bool, error)
}

// Filler inserts those of the given messages that the table lacks. It queries the table before an insert, so that no
// message is inserted twice, and after it, so that no message counts as inserted without a row.
//
// The token of an insert identifies its rows, so an insert that a killed process has left running in the server has the
// same token as its repetition. ClickHouse also remembers the token of rows that it has lost since, and then inserts
// nothing: Filler inserts what is still missing once more, under a token with its mark.
//
// It is not safe for concurrent use.
type Filler struct {
	// Mark distinguishes the tokens of second inserts from those of other fillers. It is random; a filler that
	// continues the work of another may take over its mark.
	Mark uint64

	store      store
	digester   *clickhouse.Digester
	replicated bool // an inserted row may become visible only after a while
	attempts   int
	log        *slog.Logger
	block      clickhouse.Block
	skipped    uint64
}

// NewFiller returns a filler. If the tables are replicated, an inserted row may become visible only after a while.
func NewFiller(client *clickhouse.Client, replicated bool, log *slog.Logger) *Filler {
	return newFiller(client, replicated, fillAttempts, log)
}

func newFiller(s store, replicated bool, attempts int, log *slog.Logger) *Filler {
	return &Filler{Mark: rand.Uint64(), store: s, digester: clickhouse.NewDigester(), replicated: replicated, attempts: attempts, log: log}
}

// Skipped returns the number of messages that could not become rows: the writer has put them into the dead letters.
func (f *Filler) Skipped() uint64 { return f.skipped }

// Fill inserts those of a partition's messages, which must be in order, that have no row, and returns their number.
func (f *Filler) Fill(ctx context.Context, batch []messagelog.Entry) (inserted uint64, err error) {
	lacking, err := f.Lacking(ctx, batch)
	if err != nil {
		return 0, err
	}
	for _, suffix := range []string{"", fmt.Sprintf("/%016x", f.Mark)} {
		if lacking, err = f.take(lacking); err != nil {
			return inserted, err
		}
		if len(lacking) == 0 {
			return inserted, nil
		}
		if err := f.insert(ctx, lacking, f.token(lacking)+suffix); err != nil {
			return inserted, err
		}
		rows := len(lacking)
		if lacking, err = f.settled(ctx, lacking); err != nil {
			return inserted, err
		}
		inserted += uint64(rows - len(lacking))
	}
	if len(lacking) > 0 {
		return inserted, fmt.Errorf("partition %d: ClickHouse accepted %d messages of partition_seq %d to %d twice, but the table has no rows of them: "+
			"check whether something removes rows there (a TTL, a mutation) or a replica is far behind, then try again",
			lacking[0].Partition, len(lacking), lacking[0].PartitionSeq, lacking[len(lacking)-1].PartitionSeq)
	}
	return inserted, nil
}

// take fills the block with messages, and returns those that are in it.
func (f *Filler) take(messages []messagelog.Entry) ([]messagelog.Entry, error) {
	f.block.Reset()
	var in []messagelog.Entry
	for _, m := range messages {
		switch err := f.block.Append(m.PartitionSeq, m.Data); {
		case errors.Is(err, clickhouse.ErrUndecodable):
			f.skipped++
			f.log.Warn("skipping a record that is not a message", "partition", m.Partition, "error", err)
		case err != nil:
			return nil, err //nolint:wrapcheck // says which record
		default:
			in = append(in, m)
		}
	}
	return in, nil
}

// token identifies the rows of the block by their count, their ends and a digest of their partition_seqs.
func (f *Filler) token(messages []messagelog.Entry) string {
	var places []byte
	for i, m := range messages {
		places = binary.BigEndian.AppendUint64(places, m.PartitionSeq)
		places = binary.BigEndian.AppendUint64(places, uint64(f.block.MessageID(i)))
	}
	digest := sha256.Sum256(places)
	return fmt.Sprintf("replay/%d/%d-%d/%d/%x", messages[0].Partition, messages[0].PartitionSeq, messages[len(messages)-1].PartitionSeq, len(messages), digest[:16])
}

// insert inserts the block of the messages. After a failure it repeats the same block under the same token: the server
// may still be running the first attempt.
func (f *Filler) insert(ctx context.Context, messages []messagelog.Entry, token string) error {
	for attempt := 1; ; attempt++ {
		err := f.store.Insert(ctx, &f.block, 0, len(messages), token)
		if err == nil {
			return nil
		}
		if err := f.pause(ctx, attempt, err); err != nil {
			return err
		}
		// A server that lost power has lost the token too: do not insert again rows of which only the answer was lost.
		if lacking, err := f.Lacking(ctx, messages); err != nil || len(lacking) == 0 {
			return err
		}
	}
}

// settled returns the inserted messages that still have no row although they have not expired. In a cluster, the
// queried replica may lag the one that accepted the insert.
func (f *Filler) settled(ctx context.Context, messages []messagelog.Entry) ([]messagelog.Entry, error) {
	for pause := fillAttemptPause; ; pause *= 2 {
		lacking, err := f.Lacking(ctx, messages)
		if err == nil {
			lacking, err = f.unexpired(lacking)
		}
		if err != nil || len(lacking) == 0 || !f.replicated || pause > replicaPauseMax {
			return lacking, err
		}
		if err := lifecycle.Pause(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// unexpired leaves out messages whose rows ClickHouse may have removed already, and entries that are not messages.
func (f *Filler) unexpired(messages []messagelog.Entry) ([]messagelog.Entry, error) {
	by := uint64(time.Now().Add(expiryMargin).Unix())
	var out []messagelog.Entry
	for _, m := range messages {
		d, err := f.digester.Digest(m.PartitionSeq, m.Data)
		switch {
		case errors.Is(err, clickhouse.ErrUndecodable):
		case err != nil:
			return nil, err //nolint:wrapcheck // says which record
		case d.Expires == 0 || d.Expires > by:
			out = append(out, m)
		}
	}
	return out, nil
}

// Lacking returns those of a partition's messages, which must be in order, that have no row. A row with another
// message_id at the same partition_seq, left by an earlier deployment, does not count.
func (f *Filler) Lacking(ctx context.Context, messages []messagelog.Entry) ([]messagelog.Entry, error) {
	if len(messages) == 0 {
		return nil, nil
	}
	span := clickhouse.Span{Partition: messages[0].Partition, First: messages[0].PartitionSeq, Last: messages[len(messages)-1].PartitionSeq}
	ids := make([]int64, len(messages))
	for i, m := range messages {
		id, err := message.ViewID(m.Data)
		if err != nil {
			continue // it has no row
		}
		ids[i] = int64(id)
		at, err := message.ViewTime(m.Data)
		if err != nil {
			continue
		}
		if span.From.IsZero() || at.Before(span.From) {
			span.From = at
		}
		if at.After(span.Until) {
			span.Until = at
		}
	}
	for attempt := 1; ; attempt++ {
		there, err := f.store.Messages(ctx, span)
		if err == nil {
			var out []messagelog.Entry
			for i, m := range messages {
				if !there[clickhouse.MessageAt{PartitionSeq: m.PartitionSeq, ID: ids[i]}] {
					out = append(out, m)
				}
			}
			return out, nil
		}
		if err := f.pause(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

// pause waits before another attempt. After the last attempt it returns the attempt's error.
func (f *Filler) pause(ctx context.Context, attempt int, err error) error {
	class := clickhouse.ClassOf(err)
	if attempt >= f.attempts || ctx.Err() != nil || class == clickhouse.Configuration || class == clickhouse.Data {
		return err
	}
	f.log.Warn("ClickHouse query failed; retrying", "error", err)
	if ended := lifecycle.Pause(ctx, fillAttemptPause); ended != nil {
		return errors.Join(err, ended)
	}
	return nil
}
