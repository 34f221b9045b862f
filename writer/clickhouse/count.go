package clickhouse

import (
	"context"
	"fmt"
)

// CountRange counts the distinct partition_seqs of a partition in a range, both ends included. It reads much of the
// table: use it only if there is no cheaper way.
func (c *Client) CountRange(ctx context.Context, partition int, first, last uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var count uint64
	row := c.conn.QueryRow(ctx, fmt.Sprintf("SELECT uniqExact(partition_seq) FROM %s.%s WHERE partition = %d AND partition_seq >= %d AND partition_seq <= %d",
		quoteName(c.database), tableMessages, partition, first, last))
	if err := row.Scan(&count); err != nil {
		return 0, newError("count rows", c.target(tableMessages), err)
	}
	return count, nil
}
