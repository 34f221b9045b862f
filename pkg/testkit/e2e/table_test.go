package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// table is sendhouse.messages as a reader of ClickHouse sees it.
type table struct {
	conn driver.Conn
	name string // with FINAL if the test reads the table as it is after all merges
}

// row is one row of it.
type row struct {
	id           int64
	seq          uint64
	channelID    string
	channelType  uint8
	fromUID      string
	clientMsgNo  string
	redDot       uint8
	syncOnce     uint8
	streamNo     string
	tagKey       string
	expire       uint32
	subscribers  []string
	payload      string
	unixTime     uint32
	partition    uint16
	partitionSeq uint64
	walSeq       uint64
	walIndex     uint32
}

const rowColumns = "message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, " +
	"stream_no, tag_key, expire, subscribers, payload, toUInt32(toUnixTimestamp(timestamp)), partition, partition_seq, wal_seq, wal_index"

func (r *row) targets() []any {
	return []any{
		&r.id, &r.seq, &r.channelID, &r.channelType, &r.fromUID, &r.clientMsgNo, &r.redDot, &r.syncOnce,
		&r.streamNo, &r.tagKey, &r.expire, &r.subscribers, &r.payload, &r.unixTime, &r.partition, &r.partitionSeq, &r.walSeq, &r.walIndex,
	}
}

// embeddedTable reads the table of the embedded engine, which has been launched once.
func embeddedTable(t *testing.T, h *node) *table {
	t.Helper()
	return &table{name: "sendhouse.messages", conn: open(t, h.ownerDSN(t))}
}

// serverTable reads the table of a ClickHouse in a process of its own.
func serverTable(t *testing.T, s *enginetest.Server) *table {
	t.Helper()
	return &table{name: "sendhouse.messages", conn: open(t, s.DSN("default"))}
}

func open(t *testing.T, dsn string) driver.Conn {
	t.Helper()
	opts, err := clickhouse.ParseDSN(dsn)
	require.NoError(t, err)
	opts.DialTimeout, opts.ReadTimeout = askTimeout, arriveTimeout
	conn, err := clickhouse.Open(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// keepDuplicates turns merges off, for good: with them ReplacingMergeTree would hide what was inserted
// twice. It lets the table have more parts, since they stay.
func (tb *table) keepDuplicates(t *testing.T) {
	t.Helper()
	require.NoError(t, tb.conn.Exec(t.Context(), "ALTER TABLE "+tb.name+" MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, "+
		"max_bytes_to_merge_at_min_space_in_pool = 1, parts_to_delay_insert = 100000, parts_to_throw_insert = 100000"))
}

// count returns the number of rows.
func (tb *table) count(ctx context.Context) (n uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, arriveTimeout)
	defer cancel()
	err = tb.conn.QueryRow(ctx, "SELECT count() FROM "+tb.name).Scan(&n)
	return n, err
}

// await waits until there are at least n rows.
func (tb *table) await(t *testing.T, n int) {
	t.Helper()
	testkit.WaitFor(t, 2*time.Minute, "the rows", func(ctx context.Context) error {
		got, err := tb.count(ctx)
		if err == nil && got < uint64(n) {
			err = fmt.Errorf("%d of %d rows are there", got, n)
		}
		return err
	})
}

// rows reads everything, in the order of partition and partition_seq.
func (tb *table) rows(t *testing.T) []*row {
	t.Helper()
	all, err := tb.read(t.Context())
	require.NoError(t, err)
	return all
}

// read sorts the rows here: ClickHouse would hold all payloads in its memory for that.
func (tb *table) read(ctx context.Context) (all []*row, err error) {
	cursor, err := tb.conn.Query(ctx, "SELECT "+rowColumns+" FROM "+tb.name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cursor.Close()) }()
	for cursor.Next() {
		r := new(row)
		if err := cursor.Scan(r.targets()...); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.partitionSeq, b.partitionSeq))
	})
	return all, cursor.Err()
}
