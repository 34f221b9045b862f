package clickhouse

import (
	"context"
	"fmt"
)

// Health is the state of the server, as far as the table of messages depends on it.
type Health struct {
	Rows  uint64 // of the table, including those that a merge will drop
	Bytes uint64 // of the table, on disk
	// PartsMax is the number of active parts in the database's partition with the most. By default, ClickHouse slows inserts
	// down from parts_to_delay_insert (1,000) and refuses them from parts_to_throw_insert (3,000).
	PartsMax uint64
	// DiskFreeBytes and DiskBytes describe the disk with the smallest share of free space.
	DiskFreeBytes, DiskBytes uint64
}

// Health queries the server's state. An error means that it does not answer, or refuses this client.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	row := c.conn.QueryRow(ctx, fmt.Sprintf(
		"SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = '%s' AND table = '%s'", c.database, tableMessages))
	if err := row.Scan(&h.Rows, &h.Bytes); err != nil {
		return Health{}, newError("read the table's parts", c.target(tableMessages), err)
	}
	row = c.conn.QueryRow(ctx, fmt.Sprintf(
		"SELECT max(parts) FROM (SELECT count() AS parts FROM system.parts WHERE active AND database = '%s' GROUP BY table, partition)", c.database))
	if err := row.Scan(&h.PartsMax); err != nil {
		return Health{}, newError("count the parts", c.target(tableMessages), err)
	}
	row = c.conn.QueryRow(ctx, "SELECT argMin(free_space, free_space / total_space), argMin(total_space, free_space / total_space) FROM system.disks WHERE total_space > 0")
	if err := row.Scan(&h.DiskFreeBytes, &h.DiskBytes); err != nil {
		return Health{}, newError("read the disks", c.target(tableMessages), err)
	}
	return h, nil
}
