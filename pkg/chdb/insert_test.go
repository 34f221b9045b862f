package chdb_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

// messages is a table as the writer makes it, as far as inserting goes.
const messages = `CREATE TABLE messages (
	message_id UInt64 CODEC(Delta, ZSTD(1)), channel_id String, channel_type UInt8, message_seq UInt64 CODEC(Delta, ZSTD(1)), from_uid LowCardinality(String),
	client_msg_no String, payload String CODEC(ZSTD(1)), time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)), length UInt64 DEFAULT length(payload)
) ENGINE = MergeTree ORDER BY (channel_id, channel_type, message_seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1`

// columns are the values of a block of the table.
type columns struct {
	id, seq                      []uint64
	channel, from, number, bytes []string
	kind                         []uint8
	time                         []int64
}

func block(first, rows int) columns {
	var c columns
	numbered := func(prefix string, i int, suffix string) string { return prefix + strconv.Itoa(i) + suffix }
	for i := first; i < first+rows; i++ {
		c.id = append(c.id, uint64(i))
		c.channel = append(c.channel, numbered("channel", i%1000, ""))
		c.kind = append(c.kind, 2)
		c.seq = append(c.seq, uint64(i/1000))
		c.from = append(c.from, numbered("user", i%100, ""))
		c.number = append(c.number, numbered("client_msg_", i, ""))
		c.bytes = append(c.bytes, numbered("payload of message ", i, ": \x00\n;'\"\\ and so on"))
		c.time = append(c.time, int64(i))
	}
	return c
}

// insert sends the columns as one block with the token.
func insert(t testing.TB, b bench, token string, c columns) error {
	t.Helper()
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": token}))
	batch, err := b.driver.PrepareBatch(ctx,
		"INSERT INTO messages (message_id, channel_id, channel_type, message_seq, from_uid, client_msg_no, payload, time)")
	if err != nil {
		return err
	}
	for i, values := range []any{c.id, c.channel, c.kind, c.seq, c.from, c.number, c.bytes, c.time} {
		if err := batch.Column(i).Append(values); err != nil {
			return err
		}
	}
	return batch.Send()
}

// A block of half a million rows goes in as one part under one token, and goes in once however often it is sent.
func TestInsertOneBlockOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, messages)
	const rows = 500_000
	half := block(0, rows)
	for range 2 {
		require.NoError(t, insert(t, b, "range 0-499999", half))
	}
	require.EqualValues(t, rows, b.count(t, "SELECT count() FROM messages WHERE length = length(payload)"))
	require.EqualValues(t, rows, b.count(t, "SELECT uniqExact(message_id) FROM messages"))
	const parts = "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'messages'"
	require.EqualValues(t, 1, b.count(t, parts), "parts, the inactive ones included")
	var level uint32
	require.NoError(t, b.driver.QueryRow(t.Context(), "SELECT level FROM system.parts WHERE database = currentDatabase()").Scan(&level))
	require.Zero(t, level, "the part is a merged one")

	require.NoError(t, insert(t, b, "another range", half))
	require.EqualValues(t, 2*rows, b.count(t, "SELECT count() FROM messages"))
}

// The largest block that stays whole, and the first that does not: min_insert_block_size_rows is 1,048,449.
func TestInsertLargestBlock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE big (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100")
	var data bytes.Buffer
	const rows = 1_048_449
	data.WriteString("\x01\x81\xff\x3f\x01a\x06UInt64")
	for i := range rows {
		data.Write([]byte{byte(i), byte(i >> 8), byte(i >> 16), 0, 0, 0, 0, 0})
	}
	for range 2 {
		got := b.post(t, "&insert_deduplication_token=one&query=INSERT+INTO+big+FORMAT+Native", data.String())
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.Contains(t, got.header.Get("X-ClickHouse-Summary"), `"written_rows":"1048449"`)
	}
	require.EqualValues(t, rows, b.count(t, "SELECT count() FROM big"))
	require.EqualValues(t, 1, b.count(t, "SELECT count() FROM system.parts WHERE database = currentDatabase()"))
}

// Columns are taken by name, in any order, and those left out get their defaults, in every format.
func TestInsertColumnsByName(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, `CREATE TABLE t (id UInt8, s String DEFAULT concat('default ', toString(id)), lc LowCardinality(String), n Nullable(UInt8),
		m UInt16 MATERIALIZED id * 2) ENGINE = MergeTree ORDER BY id`)
	for query, data := range map[string]string{
		"INSERT INTO t (id, lc) FORMAT CSV":                                   "1,\"a\"\n",
		"INSERT INTO t (lc, id) FORMAT CSV":                                   "\"a\",2\n",
		"INSERT INTO t FORMAT JSONEachRow":                                    "{\"lc\":\"a\",\"id\":3}\n\n{\"id\":4,\"lc\":\"a\",\"n\":null}",
		"INSERT INTO t (id, lc) VALUES":                                       "(5, 'a'), (3 + 3, 'a');",
		"INSERT INTO t (* EXCEPT (s, n)) FORMAT TSV":                          "7\ta\n",
		"INSERT INTO t (id, lc) SETTINGS max_threads = 1 FORMAT TSVWithNames": "lc\tid\na\t8\n",
		"INSERT INTO t (id, lc) FORMAT Native":                                "\x02\x01\x02lc\x06String\x01a\x02id\x05UInt8\x09",
		"INSERT INTO t (id, lc) SELECT 10, 'a'":                               "",
	} {
		got := b.post(t, "&query="+url.QueryEscape(query), data)
		require.Equal(t, http.StatusOK, got.status, "%s: %s", query, got.body)
	}
	got := b.post(t, "", "SELECT id, s, lc, n, m FROM t ORDER BY id")
	var want strings.Builder
	for id := range 10 {
		fmt.Fprintf(&want, "%d\tdefault %d\ta\t\\N\t%d\n", id+1, id+1, 2*(id+1))
	}
	require.Equal(t, want.String(), got.body)
}

// A client that breaks off in the middle of the data has inserted nothing, also where the part that came is valid by itself.
func TestInsertBrokenOff(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	broken, breakOff := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"?database="+b.database+"&query=INSERT+INTO+t+FORMAT+CSV", broken)
	require.NoError(t, err)
	go func() {
		_, _ = io.WriteString(breakOff, "1\n2\n")
		_ = breakOff.CloseWithError(io.ErrClosedPipe)
	}()
	_, err = http.DefaultClient.Do(req) //nolint:bodyclose // There is none.
	require.Error(t, err)
	require.EqualValues(t, 0, b.count(t, "SELECT count() FROM t"))
}

func TestInsertBounds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	// The text before the data is bounded, and so is a statement without data.
	got := b.post(t, "", "INSERT INTO t /* "+strings.Repeat("x", 300<<10)+" */ FORMAT CSV\n1\n")
	require.Equal(t, "62", got.header.Get("X-ClickHouse-Exception-Code"), got.body)
	got = b.post(t, "", "SELECT 1 -- "+strings.Repeat("x", 17<<20))
	require.Equal(t, http.StatusRequestEntityTooLarge, got.status)
	require.Equal(t, "229", got.header.Get("X-ClickHouse-Exception-Code"))
	// A long list is the engine's to bound, and a client's to allow.
	list := "SELECT 7 IN (" + strings.Repeat("1234567890,", 50_000) + "7)"
	require.Equal(t, "62", b.post(t, "", list).header.Get("X-ClickHouse-Exception-Code"))
	require.Equal(t, "1\n", b.post(t, "&max_query_size=10000000", list).body)
}

// leftovers are the private files that are there now.
func leftovers(t testing.TB, dataDir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dataDir, "spool"))
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
