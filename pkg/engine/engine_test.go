package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/chdb"
	"github.com/sendhouse/sendhouse/pkg/engine"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const backTimeout = time.Minute

// bench is an engine that runs, with what it has logged.
type bench struct {
	*engine.Supervisor
	config   engine.Config
	registry *prometheus.Registry
	log      *lockedBuffer
	client   *http.Client // With the owner's rights.
}

func setup(t *testing.T, prepare ...func(*engine.Config)) *bench {
	t.Helper()
	b := &bench{config: config(t.TempDir()), registry: prometheus.NewRegistry(), log: new(lockedBuffer)}
	b.config.Registerer = b.registry
	b.config.Logger = slog.New(slog.NewTextHandler(b.log, nil))
	for _, f := range prepare {
		f(&b.config)
	}
	var err error
	b.Supervisor, err = engine.Start(b.config)
	require.NoError(t, err)
	b.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return b.Dial(ctx, addr) }}}
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		require.NoError(t, b.Close())
		if t.Failed() {
			t.Log(b.log.String())
		}
	})
	return b
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// ask sends a statement.
func ask(ctx context.Context, client *http.Client, addr, sql string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/", strings.NewReader(sql))
	if err != nil {
		return 0, "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), errors.Join(err, res.Body.Close())
}

// own asks with the owner's rights, over Dial.
func (b *bench) own(t *testing.T, sql string) (int, string) {
	t.Helper()
	status, body, err := ask(t.Context(), b.client, b.Addr(), sql)
	require.NoError(t, err, sql)
	return status, body
}

func (b *bench) awaitBack(t *testing.T) {
	t.Helper()
	testkit.WaitFor(t, backTimeout, "the engine to be back", func(context.Context) error { return b.Check() })
}

// child is the process of the engine.
func (b *bench) child(t *testing.T) int {
	t.Helper()
	holder, err := os.ReadFile(filepath.Join(b.config.DataDir, "clickhouse", "lock"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(holder)))
	require.NoError(t, err)
	return pid
}

// A killed engine is started again with what it had, over TCP and Dial. Meanwhile clients get an error, and Check says why.
func TestKilledEngineComesBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	status, body := b.own(t, "CREATE DATABASE product")
	require.Equal(t, http.StatusOK, status, body)
	b.own(t, "CREATE TABLE product.kept (a UInt64) ENGINE = MergeTree ORDER BY a")
	b.own(t, "INSERT INTO product.kept VALUES (7)")
	for kill := range 3 {
		require.NoError(t, syscall.Kill(b.child(t), syscall.SIGKILL))
		testkit.WaitFor(t, backTimeout, "the end to be seen", func(context.Context) error {
			if testutil.CollectAndCount(b.registry, "sendhouse_chdb_restarts_total") != 1 || !strings.Contains(b.log.String(), "signal: killed") ||
				strings.Count(b.log.String(), "ClickHouse engine ended") != kill+1 {
				return errors.New("not yet")
			}
			return nil
		})
		b.awaitBack(t)
		status, body, err := ask(t.Context(), http.DefaultClient, b.Addr(), "SELECT a FROM product.kept")
		if err != nil { // The connection was the old engine's.
			status, body, err = ask(t.Context(), http.DefaultClient, b.Addr(), "SELECT a FROM product.kept")
		}
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "7\n", body)
	}
	families, err := b.registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == "sendhouse_chdb_restarts_total" {
			require.InEpsilon(t, 3, family.GetMetric()[0].GetCounter().GetValue(), 1e-9)
		}
	}
	require.Equal(t, 3, strings.Count(b.log.String(), "ClickHouse engine ended"), b.log.String())
}

// Clients over TCP may read, and have all rights with the password, which only this user can read.
func TestPassword(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.own(t, "CREATE DATABASE product")
	path := filepath.Join(b.config.DataDir, engine.PasswordFile)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	password, err := os.ReadFile(path)
	require.NoError(t, err)
	const create = "CREATE TABLE product.made (a UInt8) ENGINE = MergeTree ORDER BY a"
	status, _, err := ask(t.Context(), http.DefaultClient, b.Addr(), create)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, status)
	status, body, err := ask(t.Context(), http.DefaultClient, engine.User+":"+strings.TrimSpace(string(password))+"@"+b.Addr(), create)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, body)

	// What an operator writes into the file counts, also if others could read it, which ends.
	require.NoError(t, b.Close())
	require.NoError(t, os.WriteFile(path, []byte("chosen\n"), 0o600))
	require.NoError(t, os.Chmod(path, 0o644))
	again := setup(t, func(c *engine.Config) { c.DataDir = b.config.DataDir })
	require.Contains(t, again.log.String(), "password of ClickHouse could be read by others")
	info, err = os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	status, body, err = ask(t.Context(), http.DefaultClient, engine.User+":chosen@"+again.Addr(), "DROP TABLE product.made")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, body)
}

// An empty password is refused: it would let everyone in.
func TestEmptyPassword(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	require.NoError(t, os.WriteFile(filepath.Join(c.DataDir, engine.PasswordFile), []byte("\n"), 0o600))
	_, err := engine.Start(c)
	require.ErrorContains(t, err, "is empty; remove it to have another made")
}

// A second engine on the folder, and a folder that cannot be made, are errors of the start.
func TestStartRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	second := b.config
	second.Registerer = prometheus.NewRegistry()
	_, err := engine.Start(second)
	require.ErrorContains(t, err, "process "+strconv.Itoa(b.child(t))+" holds the lock")
	second.Registerer, second.DataDir, second.Addr = prometheus.NewRegistry(), t.TempDir(), b.Addr()
	_, err = engine.Start(second)
	require.ErrorIs(t, err, engine.ErrAddress)
	second.DataDir = filepath.Join(os.DevNull, "data")
	_, err = engine.Start(second)
	require.ErrorIs(t, err, chdb.ErrUnwritable)
}

// An engine that cannot start on its data does not keep the rest from starting, and comes once it can.
func TestDamagedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	metadata := filepath.Join(dir, "clickhouse", "engine", "metadata")
	require.NoError(t, os.MkdirAll(metadata, 0o750))
	damaged := filepath.Join(metadata, "broken.sql")
	require.NoError(t, os.WriteFile(damaged, []byte("this is no SQL"), 0o600))
	b := setup(t, func(c *engine.Config) { c.DataDir = dir })
	require.ErrorIs(t, b.Check(), engine.ErrAway)
	_, err := b.Dial(t.Context(), "")
	require.ErrorIs(t, err, engine.ErrAway)
	status, body, err := ask(t.Context(), http.DefaultClient, b.Addr(), "SELECT 1")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "Code: 236. DB::Exception: The embedded ClickHouse is not running")
	require.NoError(t, os.Remove(damaged))
	b.awaitBack(t)
}

// A parent that is killed leaves no engine, and the next start finds the folder free.
func TestKilledParentLeavesNoChild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	parent := exec.CommandContext(t.Context(), self, parentCommand, dir)
	output, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	holder, err := os.ReadFile(filepath.Join(dir, "clickhouse", "lock"))
	require.NoError(t, err)
	if runtime.GOOS == "linux" { // The kernel kills it: it need not notice anything itself.
		pid, err := strconv.Atoi(strings.TrimSpace(string(holder)))
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait() // It was killed.
	b := setup(t, func(c *engine.Config) { c.DataDir = dir })
	require.NotEqual(t, strings.TrimSpace(string(holder)), fmt.Sprint(b.child(t)))
}
