package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Signs are cheap indications that the table may have lost rows.
type Signs struct {
	Table    string // identity of the table: a replacement has other rows
	Rows     uint64 // fewer than before: a part is gone, or merges removed expired or duplicate rows
	Broken   uint64 // parts that ClickHouse set aside because it could not read them
	Detached uint64 // a digest of the names of all detached parts, whatever the reason
}

// Signs queries them.
func (c *Client) Signs(ctx context.Context) (Signs, error) {
	var s Signs
	which := fmt.Sprintf("database = '%s' AND table = '%s'", c.database, tableMessages)
	err := errors.Join(
		c.conn.QueryRow(ctx, fmt.Sprintf("SELECT if(count() = 0, '', toString(any(uuid))) FROM system.tables WHERE database = '%s' AND name = '%s'", c.database, tableMessages)).Scan(&s.Table),
		c.conn.QueryRow(ctx, "SELECT sum(rows) FROM system.parts WHERE active AND "+which).Scan(&s.Rows),
		c.conn.QueryRow(ctx, "SELECT countIf(reason LIKE '%broken%' OR reason = 'unexpected'), groupBitXor(cityHash64(name)) FROM system.detached_parts WHERE "+which).Scan(&s.Broken, &s.Detached),
	)
	if err != nil {
		return Signs{}, newError("find lost parts", c.target(tableMessages), err)
	}
	return s, nil
}

// LastDelete returns when a statement last deleted rows, as far as the server remembers its mutations, and the server's
// current time. The zero time means never.
func (c *Client) LastDelete(ctx context.Context) (deleted, now time.Time, err error) {
	var deletes uint64
	err = c.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(), max(create_time), now() FROM system.mutations WHERE database = '%s' AND table = '%s' AND (command ILIKE '%%DELETE%%' OR command LIKE '%%_row_exists%%')",
		c.database, tableMessages)).Scan(&deletes, &deleted, &now)
	if err != nil {
		return time.Time{}, time.Time{}, newError("find deletes", c.target(tableMessages), err)
	}
	if deletes == 0 {
		deleted = time.Time{}
	}
	return deleted, now, nil
}

// CountPlaces counts the distinct partition_seqs of a span in ranges of size, the first starting at its First. The result
// omits ranges without rows.
func (c *Client) CountPlaces(ctx context.Context, s Span, size uint64) (map[uint64]uint64, error) {
	counts := make(map[uint64]uint64)
	err := c.ask(ctx, "count rows", fmt.Sprintf("SELECT intDiv(toUInt64(partition_seq - %d), toUInt64(%d)) AS range, uniqExact(partition_seq) FROM %s WHERE %s GROUP BY range",
		s.First, size, c.MessagesTable(), c.within(s)), func(rows driver.Rows) error {
		var at, count uint64
		if err := rows.Scan(&at, &count); err != nil {
			return err
		}
		counts[at] = count
		return nil
	})
	return counts, err
}

// CountLasting counts the distinct partition_seqs up to last of a partition's rows that never expire. Only a deletion or a
// loss reduces it. Its bitmap takes 8 KiB per 65,536 partition_seqs.
func (c *Client) CountLasting(ctx context.Context, partition int, last uint64) (uint64, error) {
	var count uint64
	err := c.ask(ctx, "count rows", fmt.Sprintf("SELECT groupBitmap(partition_seq) FROM %s WHERE partition = %d AND partition_seq <= %d AND expire = 0",
		c.MessagesTable(), partition, last), func(rows driver.Rows) error {
		return rows.Scan(&count)
	})
	return count, err
}

// CountRange counts the distinct partition_seqs of a partition in a range, both ends included. It reads much of the
// table: use it only if there is no cheaper way.
func (c *Client) CountRange(ctx context.Context, partition int, first, last uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var count uint64
	row := c.conn.QueryRow(ctx, fmt.Sprintf("SELECT uniqExact(partition_seq) FROM %s WHERE partition = %d AND partition_seq >= %d AND partition_seq <= %d",
		c.MessagesTable(), partition, first, last))
	if err := row.Scan(&count); err != nil {
		return 0, newError("count rows", c.target(tableMessages), err)
	}
	return count, nil
}

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
