package clickhouse_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	clusterName    = "main-1"
	clusterTimeout = 2 * time.Minute
	// clusterBatch is how many messages one insert has. Each kill is awaited for so many batches before and after it.
	clusterBatch   = 200
	clusterBatches = 5
)

// unknownToOld are the words of the migrations for a cluster that ClickHouse 18.16 does not know, and what takes their place. See createNative
// for the timestamp.
var unknownToOld = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(` COMMENT '[^']*'`), ""},
	{regexp.MustCompile(` CODEC\((?:[^()]|\([^()]*\))*\)`), ""},
	{regexp.MustCompile(`,\s+INDEX \w+ \w+ TYPE [^\n,]*`), ""},
	{regexp.MustCompile(`\nTTL [^\n]*`), ""},
	{regexp.MustCompile(`DateTime64\(3, 'UTC'\)`), "Int64"},
	{regexp.MustCompile(`DateTime\('UTC'\)`), "DateTime"},
	{regexp.MustCompile(`\s+(fsync_\w+|replicated_deduplication_window_seconds) = \d+,?`), ""},
	{regexp.MustCompile(`,?(\s+replicated_deduplication_window = \d+),?`), "$1"},
	{regexp.MustCompile(`(?s)\s+SETTINGS\s*((do_not_merge|optimize)[^\n]*)?$`), ""},
	{regexp.MustCompile(`toYYYYMM\(timestamp\)`), "toYYYYMM(toDateTime(intDiv(timestamp, 1000)))"},
	{regexp.MustCompile(`toUnixTimestamp\(timestamp\)`), "intDiv(timestamp, 1000)"},
	{regexp.MustCompile(`toUnixTimestamp\(now\(\)\)`), "toUInt32(now())"},
}

// forOld is the statement of a migration as 18.16 can hold it. It is empty for what 18.16 has not: a view with parameters, a change of settings.
func forOld(m clickhouse.Migration) string {
	statement := m.SQL
	if strings.Contains(statement, ":Int64}") || strings.Contains(statement, ":String}") || strings.HasPrefix(statement, "ALTER") {
		return ""
	}
	for _, word := range unknownToOld {
		statement = word.pattern.ReplaceAllString(statement, word.instead)
	}
	return statement
}

// realCluster is a client of a real cluster, and a connection to each of its servers.
type realCluster struct {
	bench
	*testkit.ClickHouseCluster
	servers []driver.Conn // by shard, then by replica

	rows    atomic.Int64 // that were inserted
	repeats atomic.Int64 // of inserts that failed
}

// startRealCluster starts two shards with two replicas each, and makes the tables through one of them.
func startRealCluster(t *testing.T) *realCluster {
	t.Helper()
	c := &realCluster{ClickHouseCluster: testkit.StartClickHouseCluster(t, clusterName, 2, 2)}
	first, spare := c.Shards[0][0], c.Shards[0][1]
	c.bench = setup(t, "clickhouse://"+first.Addr+","+spare.Addr+"/sendhouse")
	c.client, _ = open(t, clickhouse.Config{ClickHouseDSN: c.dsn, ClickHouseCluster: clusterName})
	c.client.WrapConn(func(conn driver.Conn) driver.Conn { return withoutSettings{conn} })
	for _, server := range c.Servers() {
		c.servers = append(c.servers, setup(t, serverDSN(server, "sendhouse")).plain)
	}
	all, err := clickhouse.Migrations(clickhouse.Layout{Database: "sendhouse", Cluster: clusterName})
	require.NoError(t, err)
	tables := 0
	for _, m := range all {
		if statement := forOld(m); statement != "" {
			require.Contains(t, statement, "ON CLUSTER `"+clusterName+"`")
			c.exec(t, statement)
			tables++
		}
	}
	require.Equal(t, 6, tables, "the database, three tables and two views")
	return c
}

// insert inserts one batch after another until ctx ends, each until the cluster has taken it, as the writer does.
func (c *realCluster) insert(ctx context.Context) error {
	for last := 0; ctx.Err() == nil; last += clusterBatch {
		block := &clickhouse.Block{}
		for n := last + 1; n <= last+clusterBatch; n++ {
			encoded, err := sample(n).MarshalVT()
			if err == nil {
				err = block.Append(uint64(n), encoded)
			}
			if err != nil {
				return err
			}
		}
		for {
			err := c.client.Insert(context.WithoutCancel(ctx), block, 0, clusterBatch, fmt.Sprint(last))
			if err == nil {
				break
			}
			if class := clickhouse.ClassOf(err); class != clickhouse.Ambiguous && class != clickhouse.Backpressure {
				return err
			}
			c.repeats.Add(1)
		}
		c.rows.Add(clusterBatch)
	}
	return nil
}

// await waits until so many more batches were inserted.
func (c *realCluster) await(t *testing.T) {
	t.Helper()
	want := c.rows.Load() + clusterBatches*clusterBatch
	testkit.WaitFor(t, clusterTimeout, "batches", func(context.Context) error {
		if have := c.rows.Load(); have < want {
			return fmt.Errorf("%d rows of %d", have, want)
		}
		return nil
	})
}

// awaitGone waits until the server beside one that was killed knows so. Before that, the killed one could not come back as what it was.
func (c *realCluster) awaitGone(t *testing.T, beside int) {
	t.Helper()
	testkit.WaitFor(t, clusterTimeout, "the end of the killed server's session", func(ctx context.Context) error {
		var active uint8
		err := c.servers[beside].QueryRow(ctx, "SELECT active_replicas FROM system.replicas WHERE database = 'sendhouse' AND table = 'messages_local'").Scan(&active)
		if err == nil && active != 1 {
			err = fmt.Errorf("%d replicas are active", active)
		}
		return err
	})
}

// awaitReplicas waits until both replicas of each shard have the same rows, and all shards together so many.
func (c *realCluster) awaitReplicas(t *testing.T, want uint64) {
	t.Helper()
	testkit.WaitFor(t, clusterTimeout, "the rows on every replica", func(ctx context.Context) error {
		rows := make([]uint64, len(c.servers)) // by shard, then by replica
		for i, server := range c.servers {
			if err := server.QueryRow(ctx, "SELECT count() FROM sendhouse.messages_local").Scan(&rows[i]); err != nil {
				return err
			}
		}
		if rows[0] != rows[1] || rows[2] != rows[3] || rows[0]+rows[2] != want || slices.Contains(rows, 0) {
			return fmt.Errorf("%v rows, of %d", rows, want)
		}
		return nil
	})
}

// channels lists those that a table has on one server.
func (c *realCluster) channels(t *testing.T, server int, table string) []string {
	t.Helper()
	on := bench{plain: c.servers[server], ctx: c.ctx}
	text := on.text(t, "SELECT DISTINCT concat(toString(channel_type), ' ', channel_id) AS channel FROM sendhouse."+table+" ORDER BY channel")
	return strings.Split(strings.TrimSpace(text), "\n")
}

// TestRealCluster inserts into a cluster of two shards with two replicas each, through the Distributed table, while a server of each shard is
// killed: first one that only has rows, then the one that the client inserts at. In the end each row is there once, without FINAL, on both
// replicas of one shard, and no channel is on two.
//
// ClickHouse 18.16 has no deduplication tokens: here a replicated table knows a repeated piece by its content. So this shows, too, that a
// repeated batch is cut into the same pieces.
//
// It needs Debian's zookeeper and four servers, so it is run by itself: make clickhouse-cluster.
func TestRealCluster(t *testing.T) {
	t.Parallel()
	if os.Getenv("CLICKHOUSE_CLUSTER") == "" {
		t.Skip("make clickhouse-cluster runs it")
	}
	c := startRealCluster(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.insert(ctx) }()
	c.await(t)
	for _, shard := range []int{1, 0} {
		c.Shards[shard][0].Kill9()
		c.await(t)
		c.awaitGone(t, 2*shard+1)
		c.Shards[shard][0].Start()
		c.await(t)
	}
	stop()
	require.NoError(t, <-ended)
	rows := uint64(c.rows.Load())
	c.awaitReplicas(t, rows)
	require.Equal(t, rows, c.number(t, "SELECT uniqExact(partition_seq) FROM sendhouse.messages"))
	require.Equal(t, rows, c.number(t, "SELECT count() FROM sendhouse.messages_latest"))
	channels := c.channels(t, 0, "messages")
	require.Len(t, slices.Concat(c.channels(t, 0, "messages_local"), c.channels(t, 2, "messages_local")), len(channels), "a channel is on one shard")
	require.Equal(t, channels, c.channels(t, 0, "channel_counts"))
	require.Positive(t, c.repeats.Load())
	t.Logf("%d rows; %d times a batch was repeated", rows, c.repeats.Load())
}
