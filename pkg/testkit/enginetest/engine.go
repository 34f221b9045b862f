// Package enginetest runs tests with the embedded ClickHouse: one in the process of a package's tests ([Main]), and others in processes of
// their own ([Server]).
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

// Engine is the embedded ClickHouse with its HTTP interface. A process can have one, so the tests of a
// package share it, each with a database of its own.
type Engine struct{ addr string }

// DSN is the engine's address with a database that is named for the test and dropped at its end.
func (e *Engine) DSN(t testing.TB) string {
	t.Helper()
	database := DatabaseOf(t)
	t.Cleanup(func() {
		conn, err := clickhouse.Open(&clickhouse.Options{Protocol: clickhouse.HTTP, Addr: []string{e.addr}})
		if err == nil {
			err = errors.Join(conn.Exec(context.WithoutCancel(t.Context()), "DROP DATABASE IF EXISTS "+database), conn.Close())
		}
		if err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return e.Named(database)
}

// Named is the engine's address with a database that stays.
func (e *Engine) Named(database string) string { return fmt.Sprintf("http://%s/%s", e.addr, database) }

// DatabaseOf makes the name of a database of a test's name.
func DatabaseOf(t testing.TB) string {
	return strings.Map(func(c rune) rune {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return '_'
		}
		return c
	}, t.Name())
}

// Main is a TestMain around the tests of a package: it starts an engine, hands it to use, and runs them. The engine has its usual
// configuration and what is given besides, as XML.
func Main(m *testing.M, use func(*Engine), config ...string) int {
	code, err := run(m, use, config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func run(m *testing.M, use func(*Engine), config []string) (code int, err error) {
	if isServer, err := RunServer(); isServer || err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "enginetest-*")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for i, text := range config {
		if err := configure(dir, i, text); err != nil {
			return 1, err
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	engine, err := chdb.Open(chdb.Config{DataDir: dir, Logger: log, MemoryBytesMax: 4 << 30})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: "127.0.0.1:0"}, engine)
	if err != nil {
		return 1, err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	use(&Engine{addr: server.Addr()})
	code = m.Run()
	stop()
	return code, <-ended
}

// configure puts more configuration where the engine looks for it: beside its own file.
func configure(dataDir string, number int, text string) error {
	dir := filepath.Join(dataDir, "conf.d")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.xml", number)), []byte(text), 0o600)
}
