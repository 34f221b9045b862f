package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const clusterName = "main-1"

// unknownToOld are the words of the migrations for a cluster that ClickHouse 18.16 does not know, and what takes their place.
var unknownToOld = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(` COMMENT '[^']*'`), ""},
	{regexp.MustCompile(` CODEC\((?:[^()]|\([^()]*\))*\)`), ""},
	{regexp.MustCompile(`,\s+INDEX \w+ \w+ TYPE [^\n,]*`), ""},
	{regexp.MustCompile(`\nTTL [^\n]*`), ""},
	{regexp.MustCompile(`DateTime(64\(3, 'UTC'\)|\('UTC'\))`), "DateTime"},
	{regexp.MustCompile(`\s+(fsync_\w+|replicated_deduplication_window_seconds) = \d+,?`), ""},
	{regexp.MustCompile(`,?(\s+replicated_deduplication_window = \d+),?`), "$1"},
	{regexp.MustCompile(`(?s)\s+SETTINGS\s*((do_not_merge|optimize)[^\n]*)?$`), ""},
	{regexp.MustCompile(`toUnixTimestamp\((timestamp|now\(\))\)`), "toUInt32($1)"},
}

// comment stands before a statement and names its migration.
var comment = regexp.MustCompile(`(?m)^-- .*\n`)

// forOld is a statement as 18.16 can hold it. It is empty for a view with parameters, which 18.16 has not, and for an entry in the ledger of
// migrations: what it has is not what those are.
func forOld(statement string) string {
	if strings.Contains(statement, ":Int64}") || strings.Contains(statement, ":String}") || strings.HasPrefix(statement, "INSERT") {
		return ""
	}
	for _, word := range unknownToOld {
		statement = word.pattern.ReplaceAllString(statement, word.instead)
	}
	return statement
}

// migrateCluster makes the tables for a cluster through one of its servers, by what the migrate command prints.
func migrateCluster(t *testing.T, server *testkit.ClickHouseServer) {
	t.Helper()
	status, text := command(t, "migrate", "--dry-run", "--all", "--clickhouse-cluster="+clusterName)
	require.Equal(t, 0, status, text)
	conn := open(t, server.DSN)
	tables := 0
	for statement := range strings.SplitSeq(text, ";\n\n") {
		if statement = forOld(comment.ReplaceAllString(statement, "")); statement == "" {
			continue
		}
		require.Contains(t, statement, "ON CLUSTER `"+clusterName+"`")
		require.NoError(t, conn.Exec(t.Context(), statement), statement)
		tables++
	}
	require.Equal(t, 6, tables, "the database, three tables and two views")
}

// awaitReplicas waits until both replicas of each shard have the same rows, and all shards together so many.
func awaitReplicas(t *testing.T, c *testkit.ClickHouseCluster, want int) {
	t.Helper()
	var tables []*table
	for _, server := range c.Servers() {
		tables = append(tables, &table{name: "sendhouse.messages_local", conn: open(t, server.DSN)})
	}
	testkit.WaitFor(t, arriveTimeout, "the rows on every replica", func(ctx context.Context) error {
		rows := make([]int, len(tables)) // by shard, then by replica
		for i, one := range tables {
			n, err := one.count(ctx)
			if err != nil {
				return err
			}
			rows[i] = int(n)
		}
		if rows[0] != rows[1] || rows[2] != rows[3] || rows[0]+rows[2] < want {
			return fmt.Errorf("%v rows, of %d", rows, want)
		}
		return nil
	})
	for _, one := range tables {
		n, err := one.count(t.Context())
		require.NoError(t, err)
		require.NotZero(t, n)
	}
}

// channelsOf are the channels that a table has.
func channelsOf(t *testing.T, conn driver.Conn, table string) []string {
	t.Helper()
	cursor, err := conn.Query(t.Context(), "SELECT DISTINCT concat(toString(channel_type), ' ', channel_id) AS channel FROM sendhouse."+table+" ORDER BY channel")
	require.NoError(t, err)
	defer func() { require.NoError(t, cursor.Close()) }()
	var all []string
	for cursor.Next() {
		var channel string
		require.NoError(t, cursor.Scan(&channel))
		all = append(all, channel)
	}
	require.NoError(t, cursor.Err())
	return all
}

// awaitGone waits until the server beside one that was killed knows so. Before that, the killed one could not come back as what it was.
func awaitGone(t *testing.T, beside *testkit.ClickHouseServer) {
	t.Helper()
	conn := open(t, beside.DSN)
	testkit.WaitFor(t, arriveTimeout, "the end of the killed server's session", func(ctx context.Context) error {
		var active uint8
		err := conn.QueryRow(ctx, "SELECT active_replicas FROM system.replicas WHERE database = 'sendhouse' AND table = 'messages_local'").Scan(&active)
		if err == nil && active != 1 {
			err = fmt.Errorf("%d replicas are active", active)
		}
		return err
	})
}

// TestEndToEndClickHouseCluster has the writer insert into a cluster of two shards with two replicas each, through the Distributed table,
// while a server of each shard is killed: first one that only has rows, then the one that the writer inserts at. In the end each row is there
// once, without FINAL, on both replicas of one shard, and no channel is on two.
//
// ClickHouse 18.16 has no deduplication tokens: here a replicated table knows a repeated piece by its content. So this says, too, that a
// repeated batch is cut into the same pieces.
//
// It wants Debian's zookeeper and four more servers than other tests, so it is run by itself: make clickhouse-cluster.
func TestEndToEndClickHouseCluster(t *testing.T) {
	t.Parallel()
	if os.Getenv("CLICKHOUSE_CLUSTER") == "" {
		t.Skip("make clickhouse-cluster runs it")
	}
	seed := newSeed(t)
	c := testkit.StartClickHouseCluster(t, clusterName, 2, 2)
	first, spare := c.Shards[0][0], c.Shards[0][1]
	migrateCluster(t, first)

	a := &apart{nats: testkit.StartNATS(t, testkit.NATSOptions{}), clickHouse: first}
	a.natsURL = a.nats.URL
	a.sequencer = a.newSequencer(t)
	a.ingest = newRole(t, "ingest", "--nats-url="+a.nats.URL)
	a.writer = newRole(t, "writer", "--nats-url="+a.nats.URL, "--flush-interval=50ms", "--clickhouse-schema=reduced",
		"--clickhouse-dsn=clickhouse://"+first.Addr+","+spare.Addr+"/sendhouse?insert_distributed_sync=1")
	a.start()
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed, clients: 8})
	load.await(500)
	for _, shard := range [][]*testkit.ClickHouseServer{c.Shards[1], c.Shards[0]} {
		shard[0].Kill9()
		load.await(500)
		awaitGone(t, shard[1])
		shard[0].Start()
		load.await(500)
	}
	records := load.finish()
	awaitReplicas(t, c, len(records))
	conn := open(t, first.DSN)
	verify(t, &table{name: "sendhouse.messages", conn: conn}, records)
	channels := channelsOf(t, conn, "messages")
	require.Len(t, slices.Concat(channelsOf(t, conn, "messages_local"), channelsOf(t, open(t, c.Shards[1][0].DSN), "messages_local")), len(channels), "a channel is on one shard")
	require.Equal(t, channels, channelsOf(t, conn, "channel_counts"))
	latest, err := (&table{name: "sendhouse.messages_latest", conn: conn}).count(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, len(records), latest)
	repeats := strings.Count(a.writer.Output(), "trying again")
	require.Positive(t, repeats)
	t.Logf("%d sends; %d times a batch was repeated", len(records), repeats)
	a.stop(t)
}
