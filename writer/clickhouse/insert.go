package clickhouse

import (
	"context"
	"fmt"
	"runtime"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// appender is the part of the driver's batch column that accepts rows.
type appender interface {
	Append(values any) error
	AppendRow(value any) error
}

// Insert inserts the rows [first, end) of the block as one block under a deduplication token, and returns when they are on
// disk. After an error their state is unknown unless the class of the error determines it; the same rows may be inserted
// again under the same token. The block is not changed.
func (c *Client) Insert(ctx context.Context, b *Block, first, end int, token string) error {
	if first < 0 || first >= end || end > b.Rows() || end-first > BlockRowsMax {
		panic(fmt.Sprintf("clickhouse: insert of rows %d to %d of %d", first, end, b.Rows()))
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	rows := b.inOrder(first, end)
	if err := c.insert(c.withInsertOptions(ctx, token), b, rows); err != nil {
		cancel()
		failed := newError("insert", c.target(tableMessages), err)
		if failed.Row > 0 && failed.Row <= len(rows) { // its index is that of the sent rows
			failed.Row = int(rows[failed.Row-1]) - first + 1
		}
		return failed
	}
	// The driver stops watching ctx shortly after Send. If ctx ended in between, the driver could take that for an
	// interrupted insert, and close the connection while another call uses it. So ctx ends only by its timeout.
	context.AfterFunc(ctx, cancel)
	return nil
}

func (c *Client) withInsertOptions(ctx context.Context, token string) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithColumnNamesAndTypes(c.types), clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplicate":         1,
		"insert_deduplication_token": token,
		// Otherwise the server would merge the block with those of others, and the token would lose its meaning. This overrides the DSN.
		"async_insert": 0,
		// A view skips a repeated block only if its own table has it: otherwise it would count the rows of each repetition.
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		// No two rows of a block are versions of one message, so the search for such rows, a quarter of the cost of an
		// insert, would find none.
		"optimize_on_insert": 0,
	}))
}

func (c *Client) insert(ctx context.Context, b *Block, rows []int32) (err error) {
	batch, err := c.conn.PrepareBatch(ctx, c.statement)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	c.kept.lend(batch.Columns())
	for i, col := range c.columns {
		runtime.Gosched() // see yieldRows
		to := batch.Column(i)
		if err := b.columns[i].hand(rows, to, &b.picked); err != nil {
			// The connection is in the middle of an INSERT: Abort closes it, and nothing is inserted.
			_ = batch.Abort()
			return fmt.Errorf("column %s: %w: %w", col.Name, errColumnMismatch, err)
		}
	}
	// Send releases the connection, or closes it after an error.
	if err := batch.Send(); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	c.kept.keep(batch.Columns())
	return nil
}

var _ appender = driver.BatchColumn(nil)
