package clickhouse

import (
	"context"
	"fmt"
)

// Health is how the server is, as far as it concerns the table of messages.
type Health struct {
	Rows  uint64 // of the table, those of it that a merge will drop included
	Bytes uint64 // of the table, on disk
	// PartsMax is the number of active parts in the partition of the database that has the most. From
	// parts_to_delay_insert on (1,000 by default) ClickHouse slows inserts down, from parts_to_throw_insert on it refuses them.
	PartsMax uint64
	// DiskFreeBytes and DiskBytes are of the disk that has the smallest share free.
	DiskFreeBytes, DiskBytes uint64
}

// Health asks the server how it is. The error says that it does not answer, or not to us.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	row := c.conn.QueryRow(ctx, fmt.Sprintf(
		"SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = '%s' AND table = '%s'", c.database, tableMessages))
	if err := row.Scan(&h.Rows, &h.Bytes); err != nil {
		return Health{}, newError("look at the table's parts", c.target(tableMessages), err)
	}
	row = c.conn.QueryRow(ctx, fmt.Sprintf(
		"SELECT max(parts) FROM (SELECT count() AS parts FROM system.parts WHERE active AND database = '%s' GROUP BY table, partition)", c.database))
	if err := row.Scan(&h.PartsMax); err != nil {
		return Health{}, newError("count the parts", c.target(tableMessages), err)
	}
	row = c.conn.QueryRow(ctx, "SELECT argMin(free_space, free_space / total_space), argMin(total_space, free_space / total_space) FROM system.disks WHERE total_space > 0")
	if err := row.Scan(&h.DiskFreeBytes, &h.DiskBytes); err != nil {
		return Health{}, newError("look at the disks", c.target(tableMessages), err)
	}
	return h, nil
}
