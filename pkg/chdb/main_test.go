package chdb_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

// shared is the engine and server that tests use together, each in a database of its own: a process can have but one engine.
var shared struct {
	engine *chdb.Engine
	server *chdb.Server
}

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "chdb-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	shared.engine, err = chdb.Open(chdb.Config{DataDir: dir, Logger: log})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared.server, err = chdb.NewServer(chdb.ServerConfig{Addr: "127.0.0.1:0"}, shared.engine)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- shared.server.Run(ctx) }()
	code := m.Run()
	stop()
	if err := <-ended; err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := shared.engine.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// bench is what a test works with: a database of its own, a driver connected to it, and the address for plain HTTP.
type bench struct {
	database string
	url      string
	driver   driver.Conn
}

var databases atomic.Int64

func setup(t testing.TB, options ...func(*clickhouse.Options)) bench {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	require.NoError(t, shared.engine.Exec(t.Context(), "CREATE DATABASE "+name))
	t.Cleanup(func() {
		require.NoError(t, shared.engine.Exec(context.Background(), "DROP DATABASE "+name+" SYNC"))
	})
	return bench{database: name, url: "http://" + shared.server.Addr() + "/", driver: connect(t, shared.server.Addr(), name, options...)}
}

func connect(t testing.TB, addr, database string, options ...func(*clickhouse.Options)) driver.Conn {
	t.Helper()
	config := &clickhouse.Options{
		Addr: []string{addr}, Protocol: clickhouse.HTTP, Auth: clickhouse.Auth{Database: database},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
	}
	for _, option := range options {
		option(config)
	}
	conn, err := clickhouse.Open(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// exec runs a statement in the bench's database.
func (b bench) exec(t testing.TB, sql string) {
	t.Helper()
	require.NoError(t, b.driver.Exec(t.Context(), sql))
}

// count runs a query that gives one number.
func (b bench) count(t testing.TB, sql string) uint64 {
	t.Helper()
	var result uint64
	require.NoError(t, b.driver.QueryRow(t.Context(), sql).Scan(&result))
	return result
}

// post sends a request as curl would and returns the answer with its body read.
func (b bench) post(t testing.TB, parameters, body string, headers ...string) answer {
	t.Helper()
	return send(t, http.MethodPost, b.url+"?database="+b.database+parameters, body, headers...)
}

func (b bench) get(t testing.TB, parameters string, headers ...string) answer {
	t.Helper()
	return send(t, http.MethodGet, b.url+"?database="+b.database+parameters, "", headers...)
}

type answer struct {
	status int
	header http.Header
	body   string
}

func send(t testing.TB, method, url, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	return do(t, req, headers...)
}
