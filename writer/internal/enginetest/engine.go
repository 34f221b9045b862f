// Package enginetest runs the tests of a package with one embedded ClickHouse.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

// Engine is the embedded ClickHouse behind its HTTP interface. A process can have one, so the tests of a
// package share it, each with a database of its own.
type Engine struct{ addr string }

// DSN is the engine's address with a database.
func (e *Engine) DSN(database string) string { return fmt.Sprintf("http://%s/%s", e.addr, database) }

// Main is a TestMain around the tests of a package: it starts an engine, hands it to use, and runs them.
func Main(m *testing.M, use func(*Engine)) int {
	code, err := run(m, use)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func run(m *testing.M, use func(*Engine)) (code int, err error) {
	dir, err := os.MkdirTemp("", "writer-test-*")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
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
