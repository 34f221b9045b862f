package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

var replicated = regexp.MustCompile(`Replicated(\w+)\('[^']*', '[^']*'\)`)

// withoutKeeper takes out of a statement for a cluster what needs a Keeper: the queue behind ON CLUSTER, and replicas.
func withoutKeeper(statement string) string {
	statement = strings.ReplaceAll(statement, " ON CLUSTER `"+shardCluster+"`", "")
	statement = replicated.ReplaceAllString(statement, "$1()")
	return strings.ReplaceAll(statement, "    replicated_deduplication_window = 10000", "    non_replicated_deduplication_window = 10000")
}

// sharded is a database whose table is spread over the two shards. What a shard has lies in a database of its own.
type sharded struct {
	bench
	cluster *clickhouse.Client
}

func (s *sharded) shard(n int) string { return fmt.Sprintf("%s_shard%d", s.database, n) }

// startSharded makes the tables as the migrations for a cluster do, and lets the shards store what comes.
func startSharded(t *testing.T) *sharded {
	t.Helper()
	s := &sharded{bench: setup(t, engine.DSN(t))}
	tables := func(database string) []clickhouse.Migration {
		all, err := clickhouse.Migrations(clickhouse.Layout{Database: database, Cluster: shardCluster})
		require.NoError(t, err)
		return all
	}
	for _, m := range tables(s.database) {
		for _, statement := range m.Statements() {
			s.exec(t, withoutKeeper(statement))
		}
	}
	for i, one := range shards {
		database := s.shard(i)
		for _, m := range tables(database) {
			for _, statement := range m.Statements() {
				if m.Version <= 3 || strings.Contains(statement, ".messages_local") && strings.Contains(statement, " ADD COLUMN ") {
					s.exec(t, withoutKeeper(statement))
				}
			}
		}
		t.Cleanup(func() {
			require.NoError(t, s.plain.Exec(context.WithoutCancel(t.Context()), "DROP DATABASE "+database))
		})
		types := make(map[string]string)
		for line := range strings.Lines(s.text(t, "SELECT concat(name, ' ', type) FROM system.columns WHERE database = '"+database+"' AND table = 'messages_local'")) {
			name, typeName, _ := strings.Cut(strings.TrimSpace(line), " ")
			types[name] = typeName
		}
		one.mu.Lock()
		one.types = types
		one.mu.Unlock()
		t.Cleanup(func() {
			one.mu.Lock()
			defer one.mu.Unlock()
			require.Empty(t, one.faults, "of shard %d", i)
		})
	}
	s.cluster, _ = open(t, clickhouse.Config{ClickHouseDSN: engine.Named(enginetest.DatabaseOf(t)), ClickHouseCluster: shardCluster})
	require.NoError(t, s.cluster.Check(s.ctx))
	return s
}

// store makes both shards store what they receive, until a test changes that.
func (s *sharded) store() {
	for i, one := range shards {
		one.let(s.into(i))
	}
}

// into returns how the i-th shard handles an insert without faults.
func (s *sharded) into(i int) func(context.Context, *shardInsert) error {
	return func(ctx context.Context, in *shardInsert) error {
		return in.intoEngine(ctx, engine.Named(""), s.shard(i)+".messages_local")
	}
}

// requireRows wants so many rows on the shards together, no channel on both, and both to have some.
func (s *sharded) requireRows(t *testing.T, want uint64) {
	t.Helper()
	rows := func(i int, what string) uint64 {
		return s.number(t, "SELECT "+what+" FROM "+s.shard(i)+".messages_local")
	}
	require.Equal(t, want, rows(0, "count()")+rows(1, "count()"))
	require.NotZero(t, rows(0, "count()"))
	require.NotZero(t, rows(1, "count()"))
	require.Zero(t, rows(0, "countIf((channel_id, channel_type) IN (SELECT channel_id, channel_type FROM "+s.shard(1)+".messages_local))"))
}

// requirePieces requires that each shard received one piece, under the token of the whole, and returns the rows of each.
func (s *sharded) requirePieces(t *testing.T, token string, rows int) [2][]string {
	t.Helper()
	var keys [2][]string
	for i, one := range shards {
		taken := one.taken()
		require.Len(t, taken, 1)
		require.Equal(t, token, taken[0].settings["insert_deduplication_token"])
		require.Equal(t, "1", taken[0].settings["insert_deduplicate"])
		require.Contains(t, taken[0].query, "messages_local")
		keys[i] = taken[0].keys()
	}
	require.Len(t, append(keys[0], keys[1]...), rows)
	return keys
}

// TestDistributedPassesTheToken inserts a batch into the table of a cluster, as the writer does, and looks at what comes to its shards: each
// gets a piece of its own under the token of the whole, the same piece each time, and only once into its table, wherever the insert broke off.
//
// The shards are the test's own, before tables of the engine without replicas. What a replicated table does with a token is not seen here.
func TestDistributedPassesTheToken(t *testing.T) {
	t.Parallel()
	s := startSharded(t)
	const rows = 500
	block := fill(t, 1, 2*rows)
	first := func(token string) error { return s.cluster.Insert(s.ctx, block, 0, rows, token) }

	s.store()
	require.NoError(t, first("a"))
	pieces := s.requirePieces(t, "a", rows)
	s.requireRows(t, rows)
	s.store()
	require.NoError(t, first("a"))
	require.Equal(t, pieces, s.requirePieces(t, "a", rows), "cut into the same pieces")
	s.requireRows(t, rows)
	// It is the token that is known again, and not the rows.
	require.NoError(t, first("b"))
	s.requireRows(t, 2*rows)

	// The second shard hangs up, without having stored anything, when the first has its piece.
	second := func() error { return s.cluster.Insert(s.ctx, block, rows, 2*rows, "c") }
	stored := make(chan struct{})
	shards[0].let(func(ctx context.Context, in *shardInsert) error {
		defer close(stored)
		return s.into(0)(ctx, in)
	})
	shards[1].let(func(ctx context.Context, _ *shardInsert) error {
		select {
		case <-stored:
			return errHangUp
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	require.Equal(t, clickhouse.Ambiguous, clickhouse.ClassOf(second()))
	half := s.requirePieces(t, "c", rows)
	s.requireRows(t, uint64(2*rows+len(half[0])))
	// Then it has stored it, and hangs up without saying so.
	s.store()
	shards[1].let(func(ctx context.Context, in *shardInsert) error { return errors.Join(s.into(1)(ctx, in), errHangUp) })
	require.Equal(t, clickhouse.Ambiguous, clickhouse.ClassOf(second()))
	require.Equal(t, half, s.requirePieces(t, "c", rows))
	s.requireRows(t, 3*rows)
	s.store()
	require.NoError(t, second())
	require.Equal(t, half, s.requirePieces(t, "c", rows))
	s.requireRows(t, 3*rows)
}
