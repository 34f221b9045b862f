package clickhouse_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

var engine *enginetest.Engine

func TestMain(m *testing.M) {
	config, stop, err := listenAsShards()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := enginetest.Main(m, func(e *enginetest.Engine) { engine = e }, config)
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bench is a client of a database of its own, and a plain connection to look into it.
type bench struct {
	client   *clickhouse.Client
	plain    driver.Conn
	ctx      context.Context
	database string
	dsn      string
}

// setup makes a bench without tables.
func setup(t testing.TB, dsn string) bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: dsn}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	options, err := chgo.ParseDSN(dsn)
	require.NoError(t, err)
	options.Auth.Database = ""
	plain, err := chgo.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, plain.Close()) })
	return bench{client: client, plain: plain, ctx: ctx, database: client.Database(), dsn: dsn}
}

func (b bench) exec(t testing.TB, statement string) {
	t.Helper()
	require.NoError(t, b.plain.Exec(b.ctx, statement))
}

func (b bench) number(t testing.TB, query string) uint64 {
	t.Helper()
	var n uint64
	require.NoError(t, b.plain.QueryRow(b.ctx, query).Scan(&n))
	return n
}

// script runs statements that end with a semicolon at the end of a line, one after another.
func (b bench) script(t testing.TB, text string) {
	t.Helper()
	for statement := range strings.SplitSeq(text, ";\n") {
		if strings.TrimSpace(statement) != "" {
			b.exec(t, statement)
		}
	}
}

// counts is nil when a query gives this number.
func (b bench) counts(query string, want uint64) func(context.Context) error {
	return func(ctx context.Context) error {
		var n uint64
		if err := b.plain.QueryRow(ctx, query).Scan(&n); err != nil {
			return err
		}
		if n != want {
			return fmt.Errorf("%d, want %d", n, want)
		}
		return nil
	}
}

// explain is how the engine goes about a query, with the indexes it uses.
func (b bench) explain(t testing.TB, query string) string {
	t.Helper()
	return b.text(t, "EXPLAIN indexes = 1 "+query)
}

// text is the first column of an answer, a line a row.
func (b bench) text(t testing.TB, query string) string {
	t.Helper()
	rows, err := b.plain.Query(b.ctx, query)
	require.NoError(t, err, query)
	defer rows.Close()
	var text strings.Builder
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		text.WriteString(line + "\n")
	}
	require.NoError(t, rows.Err(), query)
	return text.String()
}
