package engine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// What the roles of the engine leave open to the owner, the kernel refuses: other files, programs and connections.
func TestConfinement(t *testing.T) {
	t.Parallel()
	b := setup(t)
	version, err := ll.LandlockGetABIVersion()
	if err != nil || version < 4 {
		require.Contains(t, b.log.String(), "not wholly confined")
		t.Skipf("the kernel has version %d of Landlock", version)
	}
	require.NotContains(t, b.log.String(), "not wholly confined")
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, []byte("the secret"), 0o600))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	for _, sql := range []string{
		"SELECT file('" + outside + "')", "SELECT file('/etc/passwd')", "SELECT file('" + filepath.Join(b.config.DataDir, "clickhouse-password") + "')",
		"CREATE TABLE default.web (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = s3, endpoint = 'http://" + listener.Addr().String() +
			"/b/', access_key_id = 'a', secret_access_key = 'b', retry_attempts = 1, skip_access_check = 0)",
		fmt.Sprintf("CREATE TABLE default.out (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = object_storage, object_storage_type = local, metadata_type = plain, path = '%s/')", filepath.Dir(outside)+"/new"),
	} {
		status, body := b.own(t, sql)
		require.NotEqual(t, http.StatusOK, status, sql)
		require.NotContains(t, body, "the secret")
	}
	require.NoDirExists(t, filepath.Join(filepath.Dir(outside), "new"))
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", b.child(t)))
	require.NoError(t, err)
	require.NotContains(t, string(environment), "HOME=")
}

// An engine without file descriptors fails its statements or ends. This process stays, and the engine is well again.
func TestNoFilesLeft(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.own(t, "CREATE DATABASE product")
	b.own(t, "CREATE TABLE product.t (a UInt64) ENGINE = MergeTree ORDER BY a")
	var before unix.Rlimit
	child := b.child(t)
	require.NoError(t, unix.Prlimit(child, unix.RLIMIT_NOFILE, nil, &before))
	require.NoError(t, unix.Prlimit(child, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 24, Max: before.Max}, nil))
	for range 20 {
		_, _, _ = ask(t.Context(), b.client, b.Addr(), "INSERT INTO product.t SELECT number FROM numbers(1000)") // It may end the engine.
	}
	if b.Check() == nil && b.child(t) == child {
		require.NoError(t, unix.Prlimit(child, unix.RLIMIT_NOFILE, &before, nil))
	}
	b.awaitBack(t)
	status, body := b.own(t, "SELECT count() FROM product.t")
	if status != http.StatusOK { // It ended between the two.
		b.awaitBack(t)
		status, body = b.own(t, "SELECT count() FROM product.t")
	}
	require.Equal(t, http.StatusOK, status, strings.TrimSpace(body))
}

// The engine yields to this process, as a whole, and has a limit of files that it cannot raise.
func TestPriorityAndLimits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	child := b.child(t)
	own, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid())
	require.NoError(t, err)
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, child)
	require.NoError(t, err)
	require.Equal(t, 5, own-nice) // The system call returns 20 less nice.
	var files unix.Rlimit
	require.NoError(t, unix.Prlimit(child, unix.RLIMIT_NOFILE, nil, &files))
	require.LessOrEqual(t, files.Cur, uint64(16384))
	require.Equal(t, files.Cur, files.Max)
}

// Merges and the removal of what they have replaced leave no threads behind by the hundred.
func TestFewThreads(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sql := range []string{
		"CREATE DATABASE product",
		"CREATE TABLE product.t (a UInt64) ENGINE = MergeTree ORDER BY a PARTITION BY a % 4 SETTINGS old_parts_lifetime = 0, cleanup_delay_period = 1, " +
			"max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, merge_tree_clear_old_parts_interval_seconds = 1",
		"SYSTEM STOP MERGES product.t",
	} {
		status, body := b.own(t, sql)
		require.Equal(t, http.StatusOK, status, body)
	}
	for n := range 40 {
		b.own(t, fmt.Sprintf("INSERT INTO product.t SELECT number + %d FROM numbers(4)", n))
	}
	before := threadsOf(t, b.child(t))
	b.own(t, "SYSTEM START MERGES product.t")
	b.own(t, "OPTIMIZE TABLE product.t FINAL")
	testkit.WaitFor(t, backTimeout, "the old parts to be removed", func(context.Context) error {
		if _, parts := b.own(t, "SELECT count() FROM system.parts WHERE table = 't'"); parts != "4\n" {
			return fmt.Errorf("there are %s", strings.TrimSpace(parts))
		}
		return nil
	})
	require.Less(t, threadsOf(t, b.child(t)), before+20)
}

// A program that is updated in its place while it runs starts its engine again from what it runs itself.
func TestReplacedProgram(t *testing.T) {
	t.Parallel()
	dir, program := t.TempDir(), filepath.Join(t.TempDir(), "program")
	self, err := os.Executable()
	require.NoError(t, err)
	content, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, content, 0o755))
	parent := exec.CommandContext(t.Context(), program, parentCommand, dir)
	output, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	defer func() {
		require.NoError(t, parent.Process.Kill())
		_ = parent.Wait() // It was killed.
	}()
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	before, err := os.ReadFile(filepath.Join(dir, "clickhouse", "lock"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(program))
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/false\n"), 0o755))
	pid, err := strconv.Atoi(strings.TrimSpace(string(before)))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	testkit.WaitFor(t, backTimeout, "another engine", func(context.Context) error {
		now, err := os.ReadFile(filepath.Join(dir, "clickhouse", "lock"))
		if err == nil && string(now) == string(before) {
			err = errors.New("it is the same")
		}
		return err
	})
}

func threadsOf(t *testing.T, pid int) int {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	require.NoError(t, err)
	return len(threads)
}
