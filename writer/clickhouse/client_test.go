package clickhouse_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
	"github.com/sendhouse/sendhouse/writer/internal/servertest"
)

func open(t *testing.T, dsn string, schema clickhouse.Schema) *clickhouse.Client {
	t.Helper()
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: dsn, ClickHouseSchema: schema}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

func TestMigrateServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server := servertest.Start(t)
	client := open(t, server.DSN("fresh"), clickhouse.SchemaReduced)

	require.ErrorContains(t, client.Check(ctx), "the table is not there")
	require.NoError(t, client.Migrate(ctx))
	require.NoError(t, client.Check(ctx))
	require.NoError(t, client.Migrate(ctx))
	pending, err := client.Pending(ctx)
	require.NoError(t, err)
	require.Empty(t, pending)
}
