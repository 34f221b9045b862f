package enginetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/sendhouse/sendhouse/pkg/chdb"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	// serverDirVariable makes a test program run an engine on this folder instead of its tests, serverAddrVariable names its address.
	serverDirVariable  = "SENDHOUSE_TEST_ENGINE_DIR"
	serverAddrVariable = "SENDHOUSE_TEST_ENGINE_ADDR"

	serverMemoryBytesMax = 2 << 30
)

// Server is the engine in a process of its own, with its HTTP interface: a ClickHouse that a test can kill, stop and pause. After Kill9 or
// Stop, Start runs it again on the same address and data.
type Server struct {
	*testkit.Process
	Addr    string
	DataDir string
}

// StartServer starts a server on an empty folder and waits until it answers. The test program's TestMain must call [Main] or
// [RunServer]: the process is that program again.
func StartServer(t testing.TB) *Server {
	t.Helper()
	s := NewServer(t, t.TempDir(), testkit.FreeAddr(t))
	s.Start()
	return s
}

// NewServer prepares a server on a data folder and an address, without starting it.
func NewServer(t testing.TB, dataDir, addr string) *Server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("find the test program: %v", err)
	}
	s := &Server{Addr: addr, DataDir: dataDir}
	s.Process = testkit.NewProcess(t, testkit.ProcessConfig{
		Name: "engine", Path: self, Env: []string{serverDirVariable + "=" + dataDir, serverAddrVariable + "=" + addr}, Ready: s.answers,
	})
	return s
}

// DSN is the address of a database on the server.
func (s *Server) DSN(database string) string { return fmt.Sprintf("http://%s/%s", s.Addr, database) }

// answers returns nil if the server answers a query.
func (s *Server) answers(ctx context.Context) error {
	return testkit.AskHTTP(ctx, "http://"+s.Addr+"/?query=SELECT+1")
}

// RunServer runs the engine if this process was started as a [Server], and reports whether it was. It returns when the process receives
// SIGTERM.
func RunServer() (isServer bool, err error) {
	dir := os.Getenv(serverDirVariable)
	if dir == "" {
		return false, nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	engine, err := chdb.Open(chdb.Config{DataDir: dir, Logger: log, MemoryBytesMax: serverMemoryBytesMax})
	if err != nil {
		return true, err
	}
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: os.Getenv(serverAddrVariable)}, engine)
	if err == nil {
		err = server.Run(ctx)
	}
	return true, errors.Join(err, engine.Close())
}
