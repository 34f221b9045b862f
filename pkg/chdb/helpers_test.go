package chdb_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

// childRole is the environment variable that makes the test program play another part than running tests: what only a process of its own
// can try, because a process has one engine and a kill -9 has no survivors.
const childRole = "SENDHOUSE_CHDB_TEST_CHILD"

// A child gets its configuration as JSON in childConfig.
const childConfig = "SENDHOUSE_CHDB_TEST_CONFIG"

type childSettings struct {
	DataDir, LibraryPath     string
	Password, ReaderDatabase string
}

// runChild plays the role and returns the exit status.
func runChild(role string) int {
	var given childSettings
	if err := json.Unmarshal([]byte(os.Getenv(childConfig)), &given); err != nil {
		fmt.Println("bad configuration:", err)
		return 2
	}
	roles := map[string]func(chdb.Config) error{"serve": childServe, "open": childOpen, "close-busy": childCloseBusy}
	play, ok := roles[role]
	if !ok {
		fmt.Println("no such role:", role)
		return 2
	}
	config := chdb.Config{
		DataDir: given.DataDir, LibraryPath: given.LibraryPath, Password: given.Password, ReaderDatabase: given.ReaderDatabase,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if err := play(config); err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// childServe serves until its standard input ends, and then closes cleanly.
func childServe(config chdb.Config) error {
	engine, err := chdb.Open(config)
	if err != nil {
		return err
	}
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: "127.0.0.1:0"}, engine)
	if err != nil {
		return err
	}
	fmt.Println("ready", server.Addr())
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return errors.Join(server.Run(ctx), engine.Close())
}

// childOpen opens, closes twice, and opens again.
func childOpen(config chdb.Config) error {
	for range 2 {
		engine, err := chdb.Open(config)
		if err != nil {
			return err
		}
		if err := errors.Join(engine.Ping(context.Background()), engine.Close(), engine.Close()); err != nil {
			return err
		}
		if err := engine.Ping(context.Background()); err == nil {
			return errors.New("a closed engine answers")
		}
	}
	return nil
}

// childCloseBusy closes while a query runs that would take minutes.
func childCloseBusy(config chdb.Config) error {
	config.CloseTimeout = 50 * time.Millisecond
	engine, err := chdb.Open(config)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- engine.Exec(context.Background(), "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)")
	}()
	for engine.Exec(context.Background(), "SELECT throwIf(count() < 2) FROM system.processes") != nil {
	}
	if err := engine.Close(); err != nil {
		return err
	}
	err = <-ended
	var exception *chdb.Exception
	if !errors.As(err, &exception) || exception.Code != 236 {
		return fmt.Errorf("the query that was ended says %w", err)
	}
	return nil
}

// child is a process that serves an engine.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	addr  string
}

// command is the test program in another role.
func command(t testing.TB, role string, given childSettings) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(given)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childRole+"="+role, childConfig+"="+string(text))
	return cmd
}

// serve starts a child on the folder and waits until it serves.
func serve(t testing.TB, dataDir string) *child {
	t.Helper()
	return serveWith(t, childSettings{DataDir: dataDir})
}

func serveWith(t testing.TB, given childSettings) *child {
	t.Helper()
	cmd := command(t, "serve", given)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	started := &child{cmd: cmd, stdin: stdin}
	t.Cleanup(started.kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	addr, ready := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	require.True(t, ready, "child said %q", line)
	started.addr = addr
	return started
}

// kill is kill -9. It may be called again.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// stop ends the child cleanly.
func (c *child) stop(t testing.TB) {
	t.Helper()
	require.NoError(t, c.stdin.Close())
	require.NoError(t, c.cmd.Wait())
}

// memory is the named line of /proc/<pid>/status, such as VmRSS, in bytes.
func (c *child) memory(t testing.TB, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("this system does not tell the memory of a process in /proc")
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		var kibibytes int64
		if n, _ := fmt.Sscanf(line, name+": %d kB", &kibibytes); n == 1 {
			return kibibytes << 10
		}
	}
	require.Fail(t, "no such line", name)
	return 0
}

func do(t testing.TB, req *http.Request, headers ...string) answer {
	t.Helper()
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header, string(body)}
}

// How long to wait for what the engine does in its own time, and how often to look.
const (
	waitLong = 2 * time.Minute
	waitStep = 20 * time.Millisecond
)

// assertNoError is for goroutines, from which a test cannot be ended.
func assertNoError(t testing.TB, err error) bool {
	t.Helper()
	return assert.NoError(t, err)
}
