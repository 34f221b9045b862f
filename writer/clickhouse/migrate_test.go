package clickhouse_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	all, err := clickhouse.Migrations(clickhouse.Layout{Database: b.database})
	require.NoError(t, err)

	require.ErrorContains(t, b.client.Check(b.ctx), "the table does not exist")
	pending, err := b.client.Pending(b.ctx)
	require.NoError(t, err)
	require.Equal(t, all, pending)

	// From two processes at once.
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := b.client.Migrate(b.ctx); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	require.NoError(t, b.client.Check(b.ctx))

	pending, err = b.client.Pending(b.ctx)
	require.NoError(t, err)
	require.Empty(t, pending)
	require.NoError(t, b.client.Migrate(b.ctx))
	require.EqualValues(t, len(all), b.number(t, "SELECT count() FROM "+b.database+".schema_migrations FINAL"))
}

func TestMigrateRefusesAForeignLedger(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "INSERT INTO "+b.database+".schema_migrations (version, name, checksum, applied_at) SELECT 99, 'later', 1, now()")
	_, err := b.client.Pending(b.ctx)
	require.ErrorContains(t, err, "migration 0099 was applied")
	require.Equal(t, clickhouse.Configuration, clickhouse.ClassOf(err))
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "ALTER TABLE "+b.database+".messages DROP COLUMN tag_key")
	b.exec(t, "ALTER TABLE "+b.database+".messages MODIFY COLUMN wal_index UInt64")
	err := b.client.Check(b.ctx)
	require.ErrorContains(t, err, "column tag_key String is missing")
	require.ErrorContains(t, err, "column wal_index is UInt64, but must be UInt32")
	var typed *clickhouse.Error
	require.ErrorAs(t, err, &typed)
	require.Equal(t, clickhouse.Configuration, typed.Class)
	require.Contains(t, typed.Hint, "ALTER TABLE `"+b.database+"`.messages ADD COLUMN tag_key String")
	require.Contains(t, typed.Hint, "ALTER TABLE `"+b.database+"`.messages MODIFY COLUMN wal_index UInt32")

	b.exec(t, "ALTER TABLE "+b.database+".messages RESET SETTING non_replicated_deduplication_window")
	require.ErrorContains(t, b.client.Check(b.ctx), "non_replicated_deduplication_window")

	// What the hint says mends it.
	for {
		err := b.client.Check(b.ctx)
		if err == nil {
			break
		}
		require.ErrorAs(t, err, &typed)
		for _, statement := range strings.Split(typed.Hint, "; ") {
			b.exec(t, strings.TrimPrefix(statement, "run: "))
		}
	}
}

// The ledger says what was done, the server what there is.
func TestMigrateMakesWhatIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "DROP TABLE "+b.database+".messages")
	b.exec(t, "DROP TABLE "+b.database+".channel_counts")
	require.ErrorContains(t, b.client.Check(b.ctx), "the table does not exist (run `sendhouse migrate`, which creates it)")
	pending, err := b.client.Pending(b.ctx)
	require.NoError(t, err)
	var names []string
	for _, m := range pending {
		names = append(names, m.Name)
	}
	require.Subset(t, names, []string{"messages", "channel_counts"})
	require.NotContains(t, names, "messages_latest", "it is there")

	require.NoError(t, b.client.Migrate(b.ctx))
	require.NoError(t, b.client.Check(b.ctx))
	require.Zero(t, b.number(t, "SELECT count() FROM "+b.database+".channel_counts"))
	require.Zero(t, b.number(t, "SELECT count() FROM "+b.database+".messages_latest"))
	require.NoError(t, b.client.Insert(b.ctx, fill(t, 1, 10), 0, 10, "token"))
}

// CREATE TABLE IF NOT EXISTS does nothing for a table that is detached, and no row must be said to be lost.
func TestMigrateNamesATableThatIsDetached(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "DETACH TABLE "+b.database+".messages PERMANENTLY")
	err := b.client.Migrate(b.ctx)
	attach := "ATTACH TABLE `" + b.database + "`.messages"
	require.ErrorContains(t, err, "run: "+attach)
	b.exec(t, attach)
	require.NoError(t, b.client.Migrate(b.ctx))
	require.NoError(t, b.client.Check(b.ctx))
}

func TestCheckNamesAMissingIndex(t *testing.T) {
	t.Parallel()
	var lines bytes.Buffer
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "ALTER TABLE "+b.database+".messages DROP INDEX message_id_index")
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: b.dsn}, slog.New(slog.NewTextHandler(&lines, nil)))
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	require.NoError(t, client.Check(b.ctx), "it is no reason not to write")
	require.Contains(t, lines.String(), "ADD INDEX message_id_index message_id TYPE bloom_filter(0.01) GRANULARITY 4")
	require.NotContains(t, lines.String(), "client_msg_no_index")
}

func TestCheckLetsTheOperatorAdd(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "ALTER TABLE "+b.database+".messages ADD COLUMN region String DEFAULT 'eu'")
	b.exec(t, "ALTER TABLE "+b.database+".messages MODIFY COLUMN tag_key LowCardinality(String)")
	require.NoError(t, b.client.Check(b.ctx))
	block := fill(t, 1, 10)
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 10, "token"))
	require.EqualValues(t, 10, b.number(t, "SELECT count() FROM "+b.database+".messages WHERE region = 'eu'"))
}
