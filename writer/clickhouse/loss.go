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
		c.conn.QueryRow(ctx, fmt.Sprintf("SELECT toString(any(uuid)) FROM system.tables WHERE database = '%s' AND name = '%s'", c.database, tableMessages)).Scan(&s.Table),
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
