package clickhouse_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

func TestServerErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	block := fill(t, 1, 10)
	insert := func() *clickhouse.Error {
		var typed *clickhouse.Error
		require.ErrorAs(t, b.client.Insert(b.ctx, block, 0, 10, "t"), &typed)
		return typed
	}
	require.Equal(t, clickhouse.Configuration, insert().Class) // no database

	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "DROP TABLE "+b.database+".messages")
	err := insert()
	require.Equal(t, clickhouse.Configuration, err.Class)
	require.Equal(t, 60, err.Code)
	require.Contains(t, err.Error(), "sendhouse migrate")

	b.exec(t, "DROP TABLE "+b.database+".schema_migrations")
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "ALTER TABLE "+b.database+".messages ADD CONSTRAINT small CHECK message_seq < 5")
	require.Equal(t, clickhouse.Data, insert().Class)
	require.EqualValues(t, 0, b.number(t, "SELECT count() FROM "+b.database+".messages"))
	b.exec(t, "ALTER TABLE "+b.database+".messages DROP COLUMN tag_key")
	require.Equal(t, clickhouse.Configuration, insert().Class)
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	server := testkit.StartClickHouse(t)
	b := setupNative(t, serverDSN(server, "away"))
	b.createNative(t)
	block := fill(t, 1, 1000)
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 1000, "t"))

	server.Kill9()
	err := b.client.Insert(b.ctx, block, 0, 1000, "t")
	require.Equal(t, clickhouse.Ambiguous, clickhouse.ClassOf(err))
	err = b.client.Ping(b.ctx)
	require.ErrorContains(t, err, "is ClickHouse running, and --clickhouse-dsn right?")

	// The connections that died are not used again.
	server.Start()
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 1000, "t"))
	require.EqualValues(t, 1000, b.number(t, "SELECT count() FROM "+b.database+".messages FINAL"))
}

// A server that hangs with its connections open must not hang the caller.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	server := testkit.StartClickHouse(t)
	b := setupNative(t, serverDSN(server, "hangs"))
	b.createNative(t)
	block := fill(t, 1, 200_000) // more than the buffers of a socket
	server.Pause()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
	defer cancel()
	err := b.client.Insert(ctx, block, 0, 200_000, "t")
	require.Error(t, err)
	require.Equal(t, clickhouse.Ambiguous, clickhouse.ClassOf(err))
	server.Resume()
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 200_000, "t"))
	require.EqualValues(t, 200_000, b.number(t, "SELECT count() FROM "+b.database+".messages FINAL"))
}
