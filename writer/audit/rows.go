package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// wantedRow is the row that a message should have.
type wantedRow struct {
	seq  uint64
	hash uint64
}

// rows compares a range row by row.
func (c *comparison) rows(ctx context.Context, first, last uint64) error {
	var want []wantedRow
	err := c.log.Range(ctx, first, last, nil, func(r messagelog.Entry) error {
		d, err := c.digester.Digest(r.PartitionSeq, r.Data)
		if err == nil && !c.expired(d) {
			want = append(want, wantedRow{r.PartitionSeq, d.Hash})
		}
		return nil // entries that cannot be read have been counted
	})
	if err != nil {
		return err
	}
	have, err := c.client.RowDigests(ctx, c.selected(first, last))
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	for len(want) > 0 || len(have) > 0 {
		switch {
		case len(have) == 0 || (len(want) > 0 && want[0].seq < have[0].PartitionSeq):
			if err := c.missing(ctx, want[0].seq); err != nil {
				return err
			}
			want = want[1:]
		case len(want) == 0 || have[0].PartitionSeq < want[0].seq:
			if have, err = c.foreign(ctx, have); err != nil {
				return err
			}
		default:
			n := 1
			for n < len(have) && have[n].PartitionSeq == want[0].seq {
				n++
			}
			if err := c.present(ctx, want[0], have[:n]); err != nil {
				return err
			}
			want, have = want[1:], have[n:]
		}
	}
	return nil
}

// present compares a message with its rows.
func (c *comparison) present(ctx context.Context, want wantedRow, have []clickhouse.RowDigest) error {
	if len(have) > 1 {
		c.report.Twice++
		c.part.Differ("the row of %s is stored %d times", c.name(ctx, want.seq), len(have))
		c.part.Mend("OPTIMIZE TABLE %s FINAL", c.client.MessagesTable())
	}
	for _, row := range have {
		if row.Hash == want.hash {
			continue
		}
		c.report.Changed++
		what, err := c.whatChanged(ctx, want.seq)
		if err != nil {
			return err
		}
		c.part.Differ("the row of %s differs from the message log: %s", c.name(ctx, want.seq), what)
		c.part.Mend("delete the row (ALTER TABLE … DELETE … SETTINGS mutations_sync = 2), then: sendhouse replay clickhouse --replay-partition %d", c.part.Partition)
		return nil
	}
	return nil
}

// name returns the name of a message, as long as the report lists differences and the log is readable.
func (c *comparison) name(ctx context.Context, seq uint64) string {
	name := fmt.Sprintf("partition_seq %d", seq)
	if !c.part.Describing() {
		return name
	}
	var m message.Message
	err := c.log.Range(ctx, seq, seq, nil, func(r messagelog.Entry) error {
		if err := m.UnmarshalVT(r.Data); err != nil {
			return err //nolint:wrapcheck // only tells that the message has no name
		}
		name = audit.MessageName(&m, seq)
		return nil
	})
	if err != nil {
		return fmt.Sprintf("%s (%v)", name, err)
	}
	return name
}

// whatChanged returns the columns in which the rows of a message differ from it.
func (c *comparison) whatChanged(ctx context.Context, seq uint64) (string, error) {
	rows, err := c.client.RowTexts(ctx, c.part.Partition, seq)
	if err != nil {
		return "", err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	var want []string
	err = c.log.Range(ctx, seq, seq, nil, func(r messagelog.Entry) error {
		want, err = c.digester.Texts(r.PartitionSeq, r.Data)
		return err
	})
	if err != nil || want == nil {
		return "it cannot be read again", err
	}
	var columns []string
	for i, name := range c.digester.Names() {
		for _, row := range rows {
			if row[i] != want[i] {
				columns = append(columns, fmt.Sprintf("%s is %.60q, want %.60q", name, row[i], want[i]))
				break
			}
		}
	}
	return strings.Join(columns, ", "), nil
}

// missing checks whether a message without a row is a dead letter. The message may also have a row that counts as expired
// because its column was changed.
func (c *comparison) missing(ctx context.Context, seq uint64) error {
	if err := c.readLetters(ctx); err != nil {
		return err
	}
	if c.letters[writer.Letter{Partition: c.part.Partition, PartitionSeq: seq}] {
		c.report.Explained++
		return nil
	}
	c.report.Missing++
	c.part.Differ("%s has no row", c.name(ctx, seq))
	c.part.Mend("sendhouse replay clickhouse --replay-partition %d", c.part.Partition)
	return nil
}

// foreign handles rows of a message that was not read from the log: retention may have removed it in the meantime, or it
// may be in a lost tail.
func (c *comparison) foreign(ctx context.Context, have []clickhouse.RowDigest) ([]clickhouse.RowDigest, error) {
	n := 1
	for n < len(have) && have[n].PartitionSeq == have[0].PartitionSeq {
		n++
	}
	bounds, err := c.log.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	if have[0].PartitionSeq < bounds.First || bounds.Gone {
		c.report.OldRows += uint64(n)
		return have[n:], nil
	}
	if have[0].PartitionSeq > bounds.Last {
		return nil, fmt.Errorf("there is a row of message %d, but the message log ends at %d: %w", have[0].PartitionSeq, bounds.Last, messagelog.ErrTailLost)
	}
	c.report.Foreign += uint64(n)
	c.part.Differ("there is a row of message %d, which the message log does not have", have[0].PartitionSeq)
	return have[n:], nil
}

func (a *Auditor) readLetters(ctx context.Context) error {
	if a.letters != nil {
		return nil
	}
	var err error
	a.letters, err = writer.ReadLetters(ctx, a.js)
	return err //nolint:wrapcheck // says what was being done
}
