package chdb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

// BenchmarkInsert inserts blocks of 100,000 messages as the writer does: clickhouse-go over HTTP, one block with one token per insert, fsync on.
func BenchmarkInsert(b *testing.B) {
	const rows = 100_000
	for _, method := range []clickhouse.CompressionMethod{clickhouse.CompressionNone, clickhouse.CompressionLZ4} {
		b.Run(method.String(), func(b *testing.B) {
			on := setup(b, func(o *clickhouse.Options) { o.Compression = &clickhouse.Compression{Method: method} })
			on.exec(b, messages)
			values := block(0, rows)
			number := 0
			for b.Loop() {
				number++
				require.NoError(b, insert(b, on, fmt.Sprint(number), values))
			}
			b.ReportMetric(float64(rows)*float64(number)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkSelect reads a million messages back through the driver.
func BenchmarkSelect(b *testing.B) {
	on := setup(b)
	on.exec(b, messages)
	const rows = 1_000_000
	require.NoError(b, insert(b, on, "all", block(0, rows)))
	reads := 0
	for b.Loop() {
		reads++
		result, err := on.driver.Query(b.Context(), "SELECT message_id, channel_id, payload, time FROM messages")
		require.NoError(b, err)
		count := 0
		for result.Next() {
			var id uint64
			var channel, payload string
			var at time.Time
			require.NoError(b, result.Scan(&id, &channel, &payload, &at))
			count++
		}
		require.NoError(b, result.Err())
		require.Equal(b, rows, count)
	}
	b.ReportMetric(float64(rows)*float64(reads)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkPing is the cost of the smallest statement, with all that is around it.
func BenchmarkPing(b *testing.B) {
	for b.Loop() {
		require.NoError(b, shared.engine.Ping(b.Context()))
	}
}
