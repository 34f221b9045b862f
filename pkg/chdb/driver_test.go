package chdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

// everyType is a table with a column of each kind that Native writes in a way of its own, and values for two rows of it.
const everyType = `CREATE TABLE types (
	u8 UInt8, i64 Int64, u256 UInt256, f64 Float64, b Bool, s String, fs FixedString(4), lc LowCardinality(String),
	lcn LowCardinality(Nullable(String)), n Nullable(Int32), d Date, d32 Date32, dt DateTime, dtz DateTime('Asia/Tokyo'), dt64 DateTime64(3, 'UTC'),
	e Enum8('a' = 1, 'b' = 2), id UUID, v4 IPv4, v6 IPv6, dec Decimal(18, 3), arr Array(Array(UInt16)), m Map(String, Array(UInt8)),
	tup Tuple(UInt8, String), named Tuple(x UInt8, y String), nest Nested(k String, v UInt64), arrlc Array(LowCardinality(String))
) ENGINE = MergeTree ORDER BY u8`

func typeRow(i uint8) []any {
	at := time.Date(2026, 11, 23, 19, 15, int(i), 0, time.UTC)
	text, number := fmt.Sprint("text ☃ \x00\n", i), int32(i)
	var nullable *int32
	var nullableText *string
	if i%2 == 0 {
		nullable, nullableText = &number, &text
	}
	return []any{
		i, int64(-1) << i, new(big.Int).Lsh(big.NewInt(1), 200+uint(i)), 1.5 * float64(i), i%2 == 0, text, "abcd", "low", nullableText, nullable,
		at.Truncate(24 * time.Hour), at.Truncate(24 * time.Hour), at, at, at.Add(123 * time.Millisecond), "b", uuid.UUID{i, 1, 2},
		netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::1"), decimal.New(12345678, -3), [][]uint16{{1, 2}, {}, {uint16(i)}},
		map[string][]uint8{"k": {1, 2, i}}, []any{i, "x"}, map[string]any{"x": i, "y": "z"}, []string{"a", "b"}, []uint64{1, uint64(i)},
		[]string{"low", "high", "low"},
	}
}

// What goes in through the driver comes out the same, for every type and every compression. The engine's own text output is the judge of
// what went in, the driver's second reading of what comes out.
func TestDriverTypesAndCompression(t *testing.T) {
	t.Parallel()
	texts := make(map[string]string)
	var mu sync.Mutex
	t.Run("each", func(t *testing.T) {
		for _, method := range []clickhouse.CompressionMethod{
			clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP,
			clickhouse.CompressionDeflate, clickhouse.CompressionBrotli,
		} {
			t.Run(method.String(), func(t *testing.T) {
				t.Parallel()
				b := setup(t, func(o *clickhouse.Options) { o.Compression = &clickhouse.Compression{Method: method, Level: 3} })
				b.exec(t, everyType)
				batch, err := b.driver.PrepareBatch(t.Context(), "INSERT INTO types")
				require.NoError(t, err)
				for i := range uint8(3) {
					require.NoError(t, batch.Append(typeRow(i)...))
				}
				require.NoError(t, batch.Send())

				b.exec(t, "CREATE TABLE copied AS types")
				rows, err := b.driver.Query(t.Context(), "SELECT * FROM types ORDER BY u8")
				require.NoError(t, err)
				copied, err := b.driver.PrepareBatch(t.Context(), "INSERT INTO copied")
				require.NoError(t, err)
				for rows.Next() {
					values := make([]any, len(rows.Columns()))
					for i, column := range rows.ColumnTypes() {
						values[i] = reflect.New(column.ScanType()).Interface()
					}
					require.NoError(t, rows.Scan(values...))
					for i := range values {
						values[i] = reflect.ValueOf(values[i]).Elem().Interface()
					}
					require.NoError(t, copied.Append(values...))
				}
				require.NoError(t, rows.Err())
				require.NoError(t, copied.Send())

				original := b.post(t, "", "SELECT * FROM types ORDER BY u8 FORMAT JSONEachRow").body
				require.Equal(t, original, b.post(t, "", "SELECT * FROM copied ORDER BY u8 FORMAT JSONEachRow").body)
				require.Contains(t, original, `"dtz":"2026-11-24 04:15:00"`)
				require.Contains(t, original, `"arr":[[1,2],[],[2]]`)
				mu.Lock()
				defer mu.Unlock()
				texts[original] = method.String()
			})
		}
	})
	require.Len(t, texts, 1, "the compressions disagree")
}

// Blocks without rows have columns all the same, whose types may have a prefix before their data.
func TestDriverEmptyResults(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, everyType)
	rows, err := b.driver.Query(t.Context(), "SELECT * FROM types")
	require.NoError(t, err)
	require.False(t, rows.Next())
	require.NoError(t, rows.Err())
	rows, err = b.driver.Query(t.Context(), "SELECT lc, m FROM types", clickhouse.Named("unused", 1))
	require.NoError(t, err)
	require.False(t, rows.Next())
	require.NoError(t, rows.Err())
}

func TestDriverParametersAndStatements(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var text string
	var number uint64
	row := b.driver.QueryRow(t.Context(), "SELECT {text:String}, {number:UInt64}", clickhouse.Named("text", "a'\\b\t☃"), clickhouse.Named("number", 7))
	require.NoError(t, row.Scan(&text, &number))
	require.Equal(t, "a'\\b\t☃", text)
	require.EqualValues(t, 7, number)
	require.NoError(t, b.driver.Ping(t.Context()))
	version, err := b.driver.ServerVersion()
	require.NoError(t, err)
	require.Equal(t, "sendhouse", version.DisplayName)
	require.Contains(t, shared.engine.Version(), fmt.Sprintf("%d.%d.", version.Version.Major, version.Version.Minor))

	b.exec(t, "CREATE TABLE t (a UInt64, s String DEFAULT 'none') ENGINE = MergeTree ORDER BY a")
	require.NoError(t, b.driver.Exec(clickhouse.Context(t.Context(), clickhouse.WithAsync(true)), "INSERT INTO t (a) VALUES (1), (2)"))
	b.exec(t, "INSERT INTO t VALUES (3, 'three')")
	rows, err := b.driver.Query(t.Context(), "SHOW TABLES")
	require.NoError(t, err)
	require.True(t, rows.Next())
	require.NoError(t, rows.Scan(&text))
	require.Equal(t, "t", text)
	require.NoError(t, rows.Close())
	require.EqualValues(t, 2, b.count(t, "SELECT count() FROM t WHERE s = 'none'"))
}

func TestDriverExceptions(t *testing.T) {
	t.Parallel()
	for _, method := range []clickhouse.CompressionMethod{clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionGZIP} {
		b := setup(t, func(o *clickhouse.Options) { o.Compression = &clickhouse.Compression{Method: method, Level: 3} })
		var exception *clickhouse.Exception
		var status *clickhouse.HTTPError

		err := b.driver.Exec(t.Context(), "SELECT * FROM nosuch")
		require.ErrorAs(t, err, &exception)
		require.EqualValues(t, 60, exception.Code)
		require.Equal(t, "UNKNOWN_TABLE", exception.CodeName)
		require.ErrorAs(t, err, &status)
		require.Equal(t, 404, status.StatusCode)

		_, err = b.driver.Query(t.Context(), "SELEC 1")
		require.ErrorAs(t, err, &exception)
		require.EqualValues(t, 62, exception.Code)

		_, err = b.driver.PrepareBatch(t.Context(), "INSERT INTO nosuch")
		require.ErrorAs(t, err, &exception)
		require.EqualValues(t, 60, exception.Code)

		// An error after a million rows have gone out.
		rows, err := b.driver.Query(t.Context(), "SELECT throwIf(number = 1500000) FROM numbers(10000000) SETTINGS max_threads = 1")
		require.NoError(t, err)
		count := 0
		for rows.Next() {
			count++
		}
		require.Greater(t, count, 500_000)
		exception = nil
		require.ErrorAs(t, rows.Err(), &exception, "with %s", method)
		require.EqualValues(t, 395, exception.Code)
		require.NoError(t, b.driver.Ping(t.Context()))
	}
}

// When the client goes, the query it waited for ends, whether it has given output already or not.
func TestDriverCancel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const running = "SELECT count() FROM system.processes WHERE current_database = currentDatabase() AND Settings['log_comment'] LIKE 'to be ended%'"
	for query, wholly := range map[string]int{
		"SELECT sum(sipHash64(number)) FROM numbers(1000000000000)": 0,
		"SELECT number FROM numbers(1000000000000)":                 0,
		"SELECT number AS n FROM numbers(1000000000000)":            1,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"log_comment": "to be ended", "wait_end_of_query": wholly}))
		ended := make(chan error, 1)
		go func() {
			rows, err := b.driver.Query(ctx, query)
			if err == nil {
				for rows.Next() {
				}
				err = errors.Join(rows.Err(), rows.Close())
			}
			ended <- err
		}()
		require.Eventually(t, func() bool { return b.count(t, running) == 1 }, waitLong, waitStep)
		cancel()
		require.Error(t, <-ended)
		require.Eventually(t, func() bool { return b.count(t, running) == 0 }, waitLong, waitStep)
	}
}

// Readers see whole blocks only, while blocks go in beside them.
func TestDriverReadsBesideInserts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (batch UInt64, a UInt64) ENGINE = MergeTree ORDER BY a")
	const batches, size = 20, 1000
	var work sync.WaitGroup
	inserted := make(chan struct{})
	work.Go(func() {
		defer close(inserted)
		for i := range uint64(batches) {
			batch, err := b.driver.PrepareBatch(t.Context(), "INSERT INTO t")
			if !assertNoError(t, err) {
				return
			}
			for j := range uint64(size) {
				if !assertNoError(t, batch.Append(i, j)) {
					return
				}
			}
			if !assertNoError(t, batch.Send()) {
				return
			}
		}
	})
	for range 3 {
		work.Go(func() {
			for {
				var broken uint64
				err := b.driver.QueryRow(t.Context(), "SELECT count() FROM (SELECT batch FROM t GROUP BY batch HAVING count() != 1000)").Scan(&broken)
				if !assertNoError(t, err) {
					return
				}
				if broken != 0 {
					t.Errorf("%d batches are there in part", broken)
				}
				select {
				case <-inserted:
					return
				default:
				}
			}
		})
	}
	work.Wait()
	require.EqualValues(t, batches*size, b.count(t, "SELECT count() FROM t"))
}
