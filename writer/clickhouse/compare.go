package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// compareTimeout limits one query of an audit: it may read all of a large table.
const compareTimeout = 30 * time.Minute

// RangeSum is the number of rows and the sum of their digests in a range of partition_seqs.
type RangeSum struct {
	Rows uint64
	Sum  uint64 // of the rows' digests, modulo 2^64
}

// Selection is a partition and a range of partition_seqs, both ends included. It excludes rows that expire by
// ExpiresBy, in seconds of the Unix epoch.
type Selection struct {
	Partition   int
	First, Last uint64
	ExpiresBy   uint64
}

// where returns the FROM and WHERE clauses for the selected rows.
func (c *Client) where(s Selection) string {
	return fmt.Sprintf("FROM %s WHERE partition = %d AND partition_seq >= %d AND partition_seq <= %d AND (expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > %d)",
		c.MessagesTable(), s.Partition, s.First, s.Last, s.ExpiresBy)
}

// MessagesTable returns the qualified name of the table of messages, quoted for a statement.
func (c *Client) MessagesTable() string { return quoteName(c.database) + "." + tableMessages }

// Conn returns the connection for queries of other packages. The client owns it.
func (c *Client) Conn() driver.Conn { return c.conn }

// ask runs a query of an audit and passes each row to scan.
func (c *Client) ask(ctx context.Context, op, statement string, scan func(driver.Rows) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	rows, err := c.conn.Query(ctx, statement)
	if err != nil {
		return newError(op, c.target(tableMessages), err)
	}
	defer func() {
		if err = errors.Join(err, rows.Close()); err != nil {
			err = newError(op, c.target(tableMessages), err)
		}
	}()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// SumRanges sums up a selection in ranges of size partition_seqs, the first starting at its First. The result omits ranges
// without rows.
func (c *Client) SumRanges(ctx context.Context, p Selection, size uint64) (map[uint64]RangeSum, error) {
	sums := make(map[uint64]RangeSum)
	err := c.ask(ctx, "sum up rows", fmt.Sprintf("SELECT intDiv(toUInt64(partition_seq - %d), toUInt64(%d)) AS range, count(), sum(%s) %s GROUP BY range",
		p.First, size, digestExpression(), c.where(p)), func(rows driver.Rows) error {
		var at uint64
		var sum RangeSum
		if err := rows.Scan(&at, &sum.Rows, &sum.Sum); err != nil {
			return err
		}
		sums[at] = sum
		return nil
	})
	return sums, err
}

// RowDigest is the digest of one row.
type RowDigest struct {
	PartitionSeq uint64
	Hash         uint64
}

// RowDigests returns the digests of the selected rows, ordered by partition_seq.
func (c *Client) RowDigests(ctx context.Context, p Selection) ([]RowDigest, error) {
	var out []RowDigest
	err := c.ask(ctx, "read digests of rows", fmt.Sprintf("SELECT partition_seq, %s %s ORDER BY partition_seq", digestExpression(), c.where(p)), func(rows driver.Rows) error {
		var one RowDigest
		if err := rows.Scan(&one.PartitionSeq, &one.Hash); err != nil {
			return err
		}
		out = append(out, one)
		return nil
	})
	return out, err
}

// rowsOfMax limits the number of rows that are read of one partition_seq.
const rowsOfMax = 10

// RowTexts returns the columns of the rows that have a partition_seq.
func (c *Client) RowTexts(ctx context.Context, partition int, partitionSeq uint64) ([][]string, error) {
	columns := textExpressions()
	var out [][]string
	err := c.ask(ctx, "read rows", fmt.Sprintf("SELECT %s %s LIMIT %d", strings.Join(columns, ", "),
		c.where(Selection{Partition: partition, First: partitionSeq, Last: partitionSeq}), rowsOfMax), func(rows driver.Rows) error {
		texts := make([]string, len(columns))
		targets := make([]any, len(columns))
		for i := range texts {
			targets[i] = &texts[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		out = append(out, texts)
		return nil
	})
	return out, err
}

// Span is a range of partition_seqs of a partition, both ends included. From and Until, if not zero, bound the time at
// which its messages were accepted, so that a query skips months and parts outside it.
type Span struct {
	Partition   int
	First, Last uint64
	From, Until time.Time
}

// MessageAt is a message and its partition_seq.
type MessageAt struct {
	PartitionSeq uint64
	ID           int64
}

// Messages returns the messages of a span that have a row. It reads three columns of the matching parts, at about 10 ns a row.
func (c *Client) Messages(ctx context.Context, s Span) (map[MessageAt]bool, error) {
	there := make(map[MessageAt]bool)
	err := c.ask(ctx, "find rows", fmt.Sprintf("SELECT partition_seq, message_id FROM %s WHERE %s", c.MessagesTable(), c.within(s)), func(rows driver.Rows) error {
		var one MessageAt
		if err := rows.Scan(&one.PartitionSeq, &one.ID); err != nil {
			return err
		}
		there[one] = true
		return nil
	})
	return there, err
}

// within returns the condition for rows of a span.
func (c *Client) within(s Span) string {
	condition := fmt.Sprintf("partition = %d AND partition_seq >= %d AND partition_seq <= %d", s.Partition, s.First, s.Last)
	moment := func(t time.Time) string {
		return fmt.Sprintf("fromUnixTimestamp64Milli(toInt64(%d), 'UTC')", t.UnixMilli())
	}
	if !s.From.IsZero() {
		condition += " AND timestamp >= " + moment(s.From)
	}
	if !s.Until.IsZero() {
		condition += " AND timestamp <= " + moment(s.Until)
	}
	return condition
}

// RowCounts holds a number of rows and of the distinct partition_seqs among them.
type RowCounts struct{ Rows, Different uint64 }

// Count counts the selected rows.
func (c *Client) Count(ctx context.Context, p Selection) (RowCounts, error) {
	var out RowCounts
	err := c.ask(ctx, "count rows", "SELECT count(), uniqExact(partition_seq) "+c.where(p), func(rows driver.Rows) error {
		return rows.Scan(&out.Rows, &out.Different)
	})
	return out, err
}

// Extent is the number and range of the rows of a partition.
type Extent struct {
	Partition   uint16
	Rows        uint64
	First, Last uint64 // partition_seqs
}

// Extents returns the extents of all partitions that have rows in the table.
func (c *Client) Extents(ctx context.Context) ([]Extent, error) {
	var out []Extent
	err := c.ask(ctx, "list partitions", fmt.Sprintf("SELECT partition, count(), min(partition_seq), max(partition_seq) FROM %s GROUP BY partition ORDER BY partition",
		c.MessagesTable()), func(rows driver.Rows) error {
		var e Extent
		if err := rows.Scan(&e.Partition, &e.Rows, &e.First, &e.Last); err != nil {
			return err
		}
		out = append(out, e)
		return nil
	})
	return out, err
}
