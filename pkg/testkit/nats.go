package testkit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

const natsModule = "github.com/nats-io/nats-server/v2"

// askTimeout limits one question to a server that may not be ready.
const askTimeout = 2 * time.Second

// NATSOptions says how to run a NATS server; the zero value will do.
type NATSOptions struct {
	Name     string // of the server; "nats" if empty
	Port     int    // for clients; a FreePort if 0
	StoreDir string // of JetStream; a folder of the test if empty
	// StoreDirs are the StoreDir of each server of a cluster.
	StoreDirs []string
	// URL is what clients call instead of nats:// and the address, such as the name in a certificate.
	URL string
	// Client is how the server's health is asked for, where not everybody may.
	Client []nats.Option
	// Write, if given, writes the whole configuration into a folder and names the file; the addresses in it
	// must be those that it receives. Config is not used then.
	Write func(dir, name, addr, monitor, storeDir string) (file string)
	// SyncInterval is JetStream's sync_interval; "always" if empty.
	SyncInterval string
	// Config is added to the end of the configuration file, in its own language.
	Config string
}

// NATSServer is a real nats-server process with JetStream, which calls fsync before it acknowledges unless
// the options say otherwise.
// After Kill9 or Stop, Start runs it again on the same port and data.
type NATSServer struct {
	*Process
	Name     string
	Port     int
	URL      string // nats://127.0.0.1:port
	StoreDir string

	MonitorURL string // of the HTTP monitoring endpoint

	client []nats.Option
}

// StartNATS starts a server and waits until JetStream answers.
func StartNATS(t testing.TB, opts NATSOptions) *NATSServer {
	t.Helper()
	s := NewNATS(t, opts)
	s.Start()
	return s
}

// StartNATSCluster starts three servers that form a cluster, and waits until each of them knows the
// leader. Name and Port of the options are chosen for each server.
func StartNATSCluster(t testing.TB, opts NATSOptions) []*NATSServer {
	t.Helper()
	const size = 3
	var routes []string
	var routePorts []int
	for range size {
		port := FreePort(t)
		routePorts = append(routePorts, port)
		routes = append(routes, fmt.Sprintf("%q", "nats://"+loopback(port)))
	}
	servers := make([]*NATSServer, size)
	dirs := slices.Concat(opts.StoreDirs, make([]string, size-len(opts.StoreDirs)))
	for i := range servers {
		servers[i] = NewNATS(t, NATSOptions{
			Name: fmt.Sprintf("nats-%d", i+1), StoreDir: dirs[i],
			SyncInterval: opts.SyncInterval,
			Config: fmt.Sprintf("cluster { name: testkit, listen: %q, routes: [%s] }\n%s",
				loopback(routePorts[i]), strings.Join(routes, ", "), opts.Config),
		})
	}
	launchTogether(servers)
	return servers
}

// StartNATSServers starts servers whose configurations say how they belong together.
func StartNATSServers(t testing.TB, opts ...NATSOptions) []*NATSServer {
	t.Helper()
	servers := make([]*NATSServer, len(opts))
	for i := range opts {
		servers[i] = NewNATS(t, opts[i])
	}
	launchTogether(servers)
	return servers
}

// launchTogether starts servers of which one alone has no majority and never gets ready.
func launchTogether(servers []*NATSServer) {
	for _, s := range servers {
		s.Launch()
	}
	for _, s := range servers {
		s.WaitReady()
	}
}

// NewNATS prepares a server without starting it.
func NewNATS(t testing.TB, opts NATSOptions) *NATSServer {
	t.Helper()
	if opts.Name == "" {
		opts.Name = "nats"
	}
	if opts.Port == 0 {
		opts.Port = FreePort(t)
	}
	if opts.StoreDir == "" {
		opts.StoreDir = t.TempDir()
	}
	monitor := FreeAddr(t)
	s := &NATSServer{
		Name: opts.Name, Port: opts.Port, URL: "nats://" + loopback(opts.Port), StoreDir: opts.StoreDir,
		MonitorURL: "http://" + monitor, client: opts.Client,
	}
	if opts.URL != "" {
		s.URL = opts.URL
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "nats.conf")
	if opts.Write != nil {
		file = opts.Write(dir, s.Name, loopback(s.Port), monitor, s.StoreDir)
	} else {
		writeFile(t, file, fmt.Sprintf(`server_name: %q
listen: %q
http: %q
jetstream { store_dir: %q, sync_interval: %s, max_memory_store: 256MB, max_file_store: 64GB }
%s
`, s.Name, loopback(s.Port), monitor, s.StoreDir, cmp.Or(opts.SyncInterval, "always"), opts.Config))
	}
	s.Process = NewProcess(t, ProcessConfig{
		Name:  s.Name,
		Path:  natsBinary(t),
		Args:  []string{"--config", file},
		Ready: s.Healthy,
	})
	return s
}

// Healthy asks the server's own health check, then JetStream through a connection of its own.
func (s *NATSServer) Healthy(ctx context.Context) error {
	if err := AskHTTP(ctx, s.MonitorURL+"/healthz"); err != nil { // it also waits for a server of a cluster to have caught up with the others
		return err
	}
	nc, err := nats.Connect(s.URL, append([]nats.Option{nats.Timeout(askTimeout), nats.NoReconnect()}, s.client...)...)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.URL, err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, "$JS.API.INFO", nil)
	if err != nil {
		return fmt.Errorf("ask JetStream: %w", err)
	}
	if bytes.Contains(answer.Data, []byte(`"error"`)) {
		return fmt.Errorf("ask JetStream: %s", answer.Data)
	}
	return nil
}

// AskHTTP returns nil if a server answers a GET with status 200 in time.
func AskHTTP(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: status %d: %s", req.URL.Path, resp.StatusCode, text)
	}
	return nil
}

// natsBuild makes sure that one test binary asks the Go command only once.
//
//nolint:gochecknoglobals // a cache
var natsBuild = sync.OnceValues(buildNATS)

// NATSBinary returns the path of a nats-server of the version that go.mod names, and builds it if there is none yet.
func NATSBinary() (string, error) { return natsBuild() }

func natsBinary(t testing.TB) string {
	t.Helper()
	path, err := NATSBinary()
	if err != nil {
		t.Fatalf("build nats-server: %v", err)
	}
	return path
}

// buildNATS builds the server from the module that this module requires anyway, once for each
// version, and keeps it in the user's cache.
func buildNATS() (string, error) {
	// Not the context of the test that asks first: others wait for the outcome.
	ctx := context.Background()
	version, err := goCommand(ctx, "list", "-m", "-f", "{{.Version}}", natsModule)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "sendhouse")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "nats-server-"+version)

	// Test binaries run side by side; one builds, the others wait.
	lock, err := lockFile(path+".lock", syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }() // releases the lock
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if _, err := goCommand(ctx, "build", "-o", path+".new", natsModule); err != nil {
		return "", err
	}
	// Renamed when whole: a build that was cut short leaves nothing that looks finished.
	return path, os.Rename(path+".new", path)
}

// goCommand runs the Go command in the module that is being tested.
func goCommand(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatalf("write a configuration file: %v", err)
	}
}
