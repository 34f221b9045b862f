package clickhouse_test

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, have string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(have), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), have, "if this is meant to change: go test ./writer/clickhouse -run %s -update", t.Name())
}

var layouts = []clickhouse.Layout{
	{Database: "sendhouse"},
	{Database: "sendhouse", Cluster: "main-1"},
}

// A migration that may have been applied somewhere is never changed: there it would not run again, and the ledger
// would refuse the program. What is to be otherwise is a new migration, and a new line at the end of its block.
func TestMigrationsNeverChange(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for _, layout := range layouts {
		all, err := clickhouse.Migrations(layout)
		require.NoError(t, err)
		fmt.Fprintf(&text, "cluster %q\n", layout.Cluster)
		for _, m := range all {
			fmt.Fprintf(&text, "  %04d_%s %08x\n", m.Version, m.Name, m.Checksum)
		}
	}
	golden(t, "checksums.txt", text.String())
}

// A database that an earlier version has made is brought up to date, with its rows. The versions were: tables
// only (3).
func TestMigrateFromEarlierVersions(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	all, err := clickhouse.Migrations(clickhouse.Layout{Database: b.database})
	require.NoError(t, err)
	var earlier bytes.Buffer
	require.NoError(t, clickhouse.WriteMigrations(&earlier, b.database, all[:3]))
	b.script(t, earlier.String())
	b.exec(t, "INSERT INTO "+b.database+".messages (message_id, message_seq, channel_id, channel_type, partition_seq, timestamp) "+
		"SELECT number, number, 'c', 2, number, now64(3) FROM numbers(1, 100)") // the program of today may know more columns

	pending, err := b.client.Pending(b.ctx)
	require.NoError(t, err)
	require.Equal(t, all[3:], pending)
	require.NoError(t, b.client.Migrate(b.ctx))
	require.NoError(t, b.client.Check(b.ctx))
	require.EqualValues(t, 100, b.number(t, "SELECT count() FROM "+b.database+".messages_latest"))
	require.EqualValues(t, len(all), b.number(t, "SELECT count() FROM "+b.database+".schema_migrations"), "each is entered once")
}

// A table of an earlier version, which lost merged parts in a power cut, syncs all that it writes after the migration. One whose settings
// were changed since is named when a writer starts, with the statement that sets them.
func TestMigrationsMakeMergesSync(t *testing.T) {
	t.Parallel()
	dsn := engine.DSN(t)
	b := setup(t, dsn)
	var logged bytes.Buffer
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: dsn}, slog.New(slog.NewTextHandler(&logged, nil)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	warned := func() string {
		logged.Reset()
		require.NoError(t, client.Check(b.ctx))
		return logged.String()
	}
	all, err := clickhouse.Migrations(clickhouse.Layout{Database: b.database})
	require.NoError(t, err)
	sync := slices.IndexFunc(all, func(m clickhouse.Migration) bool { return m.Name == "messages_sync" })
	var others bytes.Buffer
	require.NoError(t, clickhouse.WriteMigrations(&others, b.database, slices.Delete(slices.Clone(all), sync, sync+1)))
	b.script(t, others.String())
	const statement = "MODIFY SETTING min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1"
	require.Contains(t, warned(), statement)

	require.NoError(t, client.Migrate(b.ctx))
	table := b.database + ".messages"
	full := b.text(t, "SELECT engine_full FROM system.tables WHERE database = '"+b.database+"' AND name = 'messages'")
	for _, name := range []string{"fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge", "min_compressed_bytes_to_fsync_after_merge"} {
		require.Contains(t, full, name+" = 1")
	}
	require.Empty(t, warned())

	b.exec(t, "ALTER TABLE "+table+" RESET SETTING min_rows_to_fsync_after_merge")
	require.Empty(t, warned(), "the other setting of merges is enough")
	b.exec(t, "ALTER TABLE "+table+" MODIFY SETTING min_compressed_bytes_to_fsync_after_merge = 1000000")
	require.Contains(t, warned(), statement)
	b.exec(t, "ALTER TABLE "+table+" MODIFY SETTING min_compressed_bytes_to_fsync_after_merge = 1, fsync_part_directory = 0")
	require.Contains(t, warned(), "MODIFY SETTING fsync_part_directory = 1\"")
}

// A process that dies between a migration and its entry in the ledger runs it again.
func TestMigrateAgainAfterACrash(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	all, err := clickhouse.Migrations(clickhouse.Layout{Database: b.database})
	require.NoError(t, err)
	for n := range all { // dies after the n-th
		b.exec(t, "DROP DATABASE IF EXISTS "+b.database)
		var before bytes.Buffer
		require.NoError(t, clickhouse.WriteMigrations(&before, b.database, all[:n]))
		if n > 0 {
			b.script(t, before.String())
		}
		for _, statement := range all[n].Statements() {
			b.exec(t, statement)
		}
		require.NoError(t, b.client.Migrate(b.ctx), all[n].Name)
		require.NoError(t, b.client.Check(b.ctx), all[n].Name)
		pending, err := b.client.Pending(b.ctx)
		require.NoError(t, err)
		require.Empty(t, pending)
	}
}

// What --dry-run prints does the same as the command without it, run by another client.
func TestMigrateDryRun(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	cfg := clickhouse.Config{ClickHouseDSN: b.dsn}
	run := func(o clickhouse.MigrateOptions) string {
		var out bytes.Buffer
		require.NoError(t, clickhouse.RunMigrate(b.ctx, cfg, o, slog.New(slog.DiscardHandler), &out))
		return out.String()
	}
	text := run(clickhouse.MigrateOptions{DryRun: true})
	require.Contains(t, text, "-- 0003_messages\nCREATE TABLE IF NOT EXISTS `"+b.database+"`.messages\n")
	require.ErrorContains(t, b.client.Check(b.ctx), "the table does not exist", "a dry run changes nothing")
	b.script(t, text)
	require.NoError(t, b.client.Check(b.ctx))
	require.Equal(t, "-- nothing is pending\n", run(clickhouse.MigrateOptions{DryRun: true}))
	require.Empty(t, run(clickhouse.MigrateOptions{}))
	require.Equal(t, text, run(clickhouse.MigrateOptions{DryRun: true, All: true}))
	require.ErrorContains(t, clickhouse.RunMigrate(b.ctx, cfg, clickhouse.MigrateOptions{All: true}, nil, nil), "--all: requires --dry-run")
}

// The statements for a cluster. There is no cluster here, so this proves less than for the others: the text is
// what was reviewed, the engine parses and formats each statement without changing its meaning, and without the
// words that need a cluster the statements make tables and views that pass the check and show messages.
func TestMigrateCluster(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	cfg := clickhouse.Config{ClickHouseCluster: "main-1"} // and no DSN
	require.NoError(t, clickhouse.RunMigrate(t.Context(), cfg, clickhouse.MigrateOptions{DryRun: true, All: true}, nil, &text))
	golden(t, "cluster.sql", text.String())

	dsn := engine.DSN(t)
	b := setup(t, dsn)
	all, err := clickhouse.Migrations(clickhouse.Layout{Database: b.database, Cluster: "main-1"})
	require.NoError(t, err)
	single := strings.NewReplacer(" ON CLUSTER `main-1`", "",
		"Distributed('main-1', '"+b.database+"', 'messages_local', cityHash64(channel_id, channel_type))", "Merge('"+b.database+"', '^messages_local$')")
	replicated := regexp.MustCompile(`Replicated(\w+)\('[^']*', '[^']*'\)`)
	b.exec(t, "CREATE DATABASE "+b.database)
	for _, m := range all {
		for _, statement := range m.Statements() {
			require.Contains(t, statement, "ON CLUSTER `main-1`", m.Name)
			require.Regexp(t, "Create|AlterQuery", b.text(t, "EXPLAIN AST "+statement), m.Name)
			formatted := b.text(t, "SELECT formatQuery('"+strings.ReplaceAll(strings.ReplaceAll(statement, `\`, `\\`), "'", `\'`)+"')")
			require.Equal(t, b.text(t, "EXPLAIN AST "+statement), b.text(t, "EXPLAIN AST "+formatted), m.Name)
			alone := replicated.ReplaceAllString(single.Replace(statement), "$1()")
			alone = strings.ReplaceAll(alone, "    replicated_deduplication_window = 10000", "    non_replicated_deduplication_window = 10000")
			b.exec(t, alone)
		}
	}

	// The names of settings have been checked by the engine. Now the rest of it.
	cfg.ClickHouseDSN = dsn
	client, _ := open(t, cfg)
	require.NoError(t, client.Check(b.ctx))
	local := strings.ReplaceAll(b.text(t, "SHOW CREATE TABLE "+b.database+".messages_local"), "messages_local", "messages")
	b.exec(t, "DROP TABLE "+b.database+".messages")
	b.exec(t, local)
	require.NoError(t, client.Insert(b.ctx, fill(t, 1, 100), 0, 100, "t"))
	require.NoError(t, client.Insert(b.ctx, fill(t, 1, 100), 0, 100, "t"))
	require.EqualValues(t, 100, b.number(t, "SELECT count() FROM "+b.database+".messages"))
	require.EqualValues(t, 100, b.number(t, "SELECT count() FROM "+b.database+".messages_latest"))
	b.exec(t, "ALTER TABLE "+b.database+".messages_local DROP COLUMN red_dot")
	require.ErrorContains(t, client.Check(b.ctx), "messages_local")
	require.ErrorContains(t, client.Check(b.ctx), "column red_dot UInt8 is missing")
}

// Databases of the two kinds are not mixed.
func TestMigrateRefusesAnotherLayout(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	client, _ := open(t, clickhouse.Config{ClickHouseDSN: engine.Named(enginetest.DatabaseOf(t)), ClickHouseCluster: "main-1"})
	_, err := client.Pending(b.ctx)
	require.ErrorContains(t, err, "migration 0001_database was applied with another text")
}

// An operator's own table may not make fewer of the messages.
func TestCheckRefusesAKeyThatMergesMessages(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	own := b.text(t, "SHOW CREATE TABLE "+b.database+".messages")
	b.exec(t, "DROP TABLE "+b.database+".messages")
	b.exec(t, strings.Replace(own, "ORDER BY (channel_id, channel_type, message_seq)", "ORDER BY (channel_id, timestamp)", 1))
	err := b.client.Check(b.ctx)
	require.ErrorContains(t, err, "has no channel_type")
	require.ErrorContains(t, err, "has no message_seq")
	b.exec(t, "DROP TABLE "+b.database+".messages")
	b.exec(t, strings.Replace(own, "ORDER BY (channel_id, channel_type, message_seq)", "ORDER BY (channel_type, channel_id, message_seq, timestamp)", 1))
	require.NoError(t, b.client.Check(b.ctx))
}
