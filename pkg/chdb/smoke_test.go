package chdb_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

const childRole = "SENDHOUSE_CHDB_TEST_CHILD"

func runChild(string) int { return 1 }

func do(t testing.TB, req *http.Request, headers ...string) answer {
	t.Helper()
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header, string(body)}
}

func TestSmoke(t *testing.T) {
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt64, s String DEFAULT 'x', lc LowCardinality(String)) ENGINE=MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window=100")
	for range 2 {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "one"}))
		batch, err := b.driver.PrepareBatch(ctx, "INSERT INTO t (a, lc)")
		require.NoError(t, err)
		require.NoError(t, batch.Column(0).Append([]uint64{1, 2, 3}))
		require.NoError(t, batch.Column(1).Append([]string{"k", "l", "m"}))
		require.NoError(t, batch.Send())
	}
	require.EqualValues(t, 3, b.count(t, "SELECT count() FROM t WHERE s = 'x'"))
	rows, err := b.driver.Query(t.Context(), "SELECT a, s, lc FROM t ORDER BY a")
	require.NoError(t, err)
	n := 0
	for rows.Next() {
		var a uint64
		var s, lc string
		require.NoError(t, rows.Scan(&a, &s, &lc))
		n++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 3, n)
	require.Error(t, b.driver.Exec(t.Context(), "SELECT * FROM nosuch"))
}
