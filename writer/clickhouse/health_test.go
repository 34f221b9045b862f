package clickhouse_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	empty, err := b.client.Health(b.ctx)
	require.NoError(t, err, "a database that is not there yet")
	require.Zero(t, empty.Rows+empty.Bytes+empty.PartsMax)

	require.NoError(t, b.client.Migrate(b.ctx))
	block := fill(t, 1, 200)
	require.NoError(t, b.client.Insert(b.ctx, block, 0, block.Rows(), "health"))
	h, err := b.client.Health(b.ctx)
	require.NoError(t, err)
	require.EqualValues(t, 200, h.Rows)
	require.Positive(t, h.Bytes)
	require.Positive(t, h.PartsMax)
	require.Positive(t, h.DiskFreeBytes)
	require.GreaterOrEqual(t, h.DiskBytes, h.DiskFreeBytes)
}

func TestHealthWithoutServer(t *testing.T) {
	t.Parallel()
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: "clickhouse://" + testkit.FreeAddr(t)}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	_, err = client.Health(t.Context())
	require.Equal(t, clickhouse.Ambiguous, clickhouse.ClassOf(err))
}
