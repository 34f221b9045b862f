// Package clienttest runs a Sendhouse for the tests and examples of the client: NATS in the process of the test, the sequencer and the HTTP
// API as processes of the built binary. Clients write to no table, so there is none.
package clienttest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// host stands for a test if there is none: examples have no testing.T. It is what testkit needs of one.
type host struct {
	testing.TB // nil; what is not below is never called
	cleanups   []func()
}

func (*host) Helper()                   {}
func (*host) Failed() bool              { return false }
func (*host) Context() context.Context  { return context.Background() }
func (*host) Logf(string, ...any)       {}
func (h *host) Cleanup(f func())        { h.cleanups = append(h.cleanups, f) }
func (*host) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "sendhouse-client-*")
	if err != nil {
		h.Fatalf("%v", err)
	}
	h.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// House is a running Sendhouse, started when it is first asked for.
type House struct {
	host host
	url  func() string
}

// New prepares one. Close must be called.
func New() *House {
	h := &House{}
	h.url = sync.OnceValue(h.start)
	return h
}

// URL is where its API is. The first call starts it, and takes a few seconds; it panics if that fails.
func (h *House) URL() string { return h.url() }

// Close ends everything.
func (h *House) Close() {
	for _, f := range slices.Backward(h.host.cleanups) {
		f()
	}
	h.host.cleanups = nil
}

func (h *House) start() string {
	t := &h.host
	dir := t.TempDir()
	binary := filepath.Join(dir, "sendhouse")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/sendhouse/sendhouse")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{
		DataDir: filepath.Join(dir, broker.EmbeddedFolder), Addr: "127.0.0.1:0", StoreBytesMax: 4 << 30, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(server.Shutdown)
	api := testkit.FreeAddr(t)
	role(t, binary, "sequencer", "--data-dir="+dir, "--nats-url="+server.URL(), "--partitions=2", "--wal-bytes-max=128MiB", "--messages-bytes-max=256MiB")
	role(t, binary, "ingest", "--data-dir="+dir, "--nats-url="+server.URL(), "--api-addr="+api)
	return "http://" + api
}

// role starts a process and waits until it serves.
func role(t testing.TB, binary, name string, flags ...string) {
	admin := testkit.FreeAddr(t)
	testkit.StartProcess(t, testkit.ProcessConfig{
		Name: name, Path: binary, Args: append([]string{name, "--admin-addr=" + admin}, flags...),
		Ready: func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", http.NoBody)
			if err != nil {
				return err
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != http.StatusOK {
				return fmt.Errorf("/readyz: %s", res.Status)
			}
			return nil
		},
	})
}
