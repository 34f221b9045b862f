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
	// replicaPauseMax is the longest pause between two questions to a cluster whether the rows that it took are there. The first
	// is fillAttemptPause and each is twice the last, so a replica may be half a minute behind.
	replicaPauseMax = 16 * time.Second
	// expiryMargin is how long before its time a row may be missed: the server's clock may be ahead.
	expiryMargin = time.Minute
)

// store is what is needed of ClickHouse to insert and to ask what is there.
type store interface {
	Insert(ctx context.Context, b *clickhouse.Block, first, end int, token string) error
	CountRange(ctx context.Context, partition int, first, last uint64) (uint64, error)
	Messages(ctx context.Context, span clickhouse.Span) (map[clickhouse.MessageAt]bool, error)
}

// Filler inserts those of some messages that the table lacks. It asks the table before an insert, so that no message is there
// twice, whoever inserted it, and after it, so that none is taken for inserted that is not.
//
// The token of an insert says which rows it has, so one that a killed process has left behind in the server has the
// same as its repetition. ClickHouse also remembers the token of rows that it has lost since, and inserts nothing
// then: what is still missing is inserted once more, under a token with the filler's mark.
//
// It is not safe for concurrent use.
type Filler struct {
	// Mark makes the tokens of second inserts differ from those of other fillers. It is random; one that continues another's work
	// may take over its mark.
	Mark uint64

	store      store
	digester   *clickhouse.Digester
	replicated bool // a row that was inserted may be seen only after a while
	attempts   int
	log        *slog.Logger
	block      clickhouse.Block
	skipped    uint64
}

// NewFiller makes a filler. If the tables are replicated, a row that was inserted may be seen only after a while.
func NewFiller(client *clickhouse.Client, replicated bool, log *slog.Logger) *Filler {
	return newFiller(client, client.Digester(), replicated, fillAttempts, log)
}

func newFiller(s store, digester *clickhouse.Digester, replicated bool, attempts int, log *slog.Logger) *Filler {
	return &Filler{Mark: rand.Uint64(), store: s, digester: digester, replicated: replicated, attempts: attempts, log: log}
}

// Skipped is how many messages could not be rows: the writer has put them into the dead letters.
func (f *Filler) Skipped() uint64 { return f.skipped }

// Fill inserts those of a partition's messages, which must be in order, that have no row, and returns how many those were.
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
		return inserted, fmt.Errorf("partition %d: ClickHouse took %d messages of partition_seq %d to %d twice, and the table has no rows of them: "+
			"see whether something removes rows there (a TTL, a mutation) or a replica is far behind, then try again",
			lacking[0].Partition, len(lacking), lacking[0].Seq, lacking[len(lacking)-1].Seq)
	}
	return inserted, nil
}

// take makes the block of messages, and returns those that are in it.
func (f *Filler) take(messages []messagelog.Entry) ([]messagelog.Entry, error) {
	f.block.Reset()
	var in []messagelog.Entry
	for _, m := range messages {
		switch err := f.block.Append(m.Seq, m.Data); {
		case errors.Is(err, clickhouse.ErrUndecodable):
			f.skipped++
			f.log.Warn("a record is no message, it is left out", "partition", m.Partition, "error", err)
		case err != nil:
			return nil, err //nolint:wrapcheck // says which record
		default:
			in = append(in, m)
		}
	}
	return in, nil
}

// token names the rows of the block by their number, ends and a digest of which they are.
func (f *Filler) token(messages []messagelog.Entry) string {
	var places []byte
	for i, m := range messages {
		places = binary.BigEndian.AppendUint64(places, m.Seq)
		places = binary.BigEndian.AppendUint64(places, uint64(f.block.MessageID(i)))
	}
	digest := sha256.Sum256(places)
	return fmt.Sprintf("replay/%d/%d-%d/%d/%x", messages[0].Partition, messages[0].Seq, messages[len(messages)-1].Seq, len(messages), digest[:16])
}

// insert inserts the block of the messages. If it fails it is repeated as it was, under the same token: the
// server may still be at work on the first.
func (f *Filler) insert(ctx context.Context, messages []messagelog.Entry, token string) error {
	for attempt := 1; ; attempt++ {
		err := f.store.Insert(ctx, &f.block, 0, len(messages), token)
		if err == nil {
			return nil
		}
		if err := f.pause(ctx, attempt, err); err != nil {
			return err
		}
		// A server that lost power has lost the token too: rows of which only the answer was lost must not be inserted again.
		if lacking, err := f.Lacking(ctx, messages); err != nil || len(lacking) == 0 {
			return err
		}
	}
}

// settled returns the messages that have no row though they were inserted, and whose time has not come. Of a cluster the replica that
// answers may be behind the one that took them.
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

// unexpired leaves out those whose rows ClickHouse may have removed already, and what is no message.
func (f *Filler) unexpired(messages []messagelog.Entry) ([]messagelog.Entry, error) {
	by := uint64(time.Now().Add(expiryMargin).Unix())
	var out []messagelog.Entry
	for _, m := range messages {
		d, err := f.digester.Digest(m.Seq, m.Data)
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

// Lacking asks the table which of a partition's messages, which must be in order, have no row. A row of another message at the same place,
// of a deployment that used the table before, is not one of theirs.
func (f *Filler) Lacking(ctx context.Context, messages []messagelog.Entry) ([]messagelog.Entry, error) {
	if len(messages) == 0 {
		return nil, nil
	}
	span := clickhouse.Span{Partition: messages[0].Partition, First: messages[0].Seq, Last: messages[len(messages)-1].Seq}
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
				if !there[clickhouse.MessageAt{PartitionSeq: m.Seq, ID: ids[i]}] {
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

// pause comes before another attempt. If there is to be none it returns the error of the last.
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
