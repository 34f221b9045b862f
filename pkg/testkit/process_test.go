package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// shell runs a script that says "ready" to a file once it is.
func shell(t *testing.T, script string) *testkit.Process {
	t.Helper()
	mark := filepath.Join(t.TempDir(), "ready")
	return testkit.StartProcess(t, testkit.ProcessConfig{
		Name: "script",
		Path: "sh",
		Args: []string{"-c", script},
		Env:  []string{"READY=" + mark},
		Ready: func(context.Context) error {
			_, err := os.Stat(mark)
			return err
		},
	})
}

func TestStopGivesTheExitStatus(t *testing.T) {
	t.Parallel()
	p := shell(t, `trap 'echo drained; exit 3' TERM; : >"$READY"; while :; do sleep 0.05; done`)
	require.Equal(t, 3, p.Stop())
	require.Contains(t, p.Output(), "drained\n")
	require.Equal(t, 3, p.Wait(time.Minute), "it stays ended")
}

func TestWaitForAnEndOfItsOwn(t *testing.T) {
	t.Parallel()
	p := testkit.StartProcess(t, testkit.ProcessConfig{Path: "sh", Args: []string{"-c", "echo $0; exit 7", "word"}})
	require.Equal(t, 7, p.Wait(time.Minute))
	<-p.Done()
	require.Equal(t, "word\n", p.Output())
}

func TestKill9TakesTheChildrenAlongAndStartRunsAgain(t *testing.T) {
	t.Parallel()
	p := shell(t, `sleep 1000 & echo $! >"$READY.child"; mv "$READY.child" "$READY"; wait`)
	first := p.PID()
	require.NoError(t, syscall.Kill(-first, 0), "the group is there")
	p.Kill9()
	require.ErrorIs(t, syscall.Kill(first, 0), syscall.ESRCH)
	testkit.WaitFor(t, time.Minute, "the child to be gone", func(context.Context) error {
		if err := syscall.Kill(-first, 0); err == nil {
			return errors.New("the group is still there")
		}
		return nil
	})
	require.Equal(t, -1, p.Wait(time.Minute))

	p.Start()
	require.NotEqual(t, first, p.PID())
	p.Kill9()
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	p := shell(t, `trap 'exit 0' TERM; sleep 1000 & : >"$READY"; wait`)
	p.Pause()
	testkit.WaitFor(t, time.Minute, "the process to be stopped", hasState(p.PID(), "T"))
	p.Resume()
	testkit.WaitFor(t, time.Minute, "the process to run on", hasState(p.PID(), "S"))
	p.Pause()
	require.Equal(t, 0, p.Stop(), "a paused process can be stopped")
}

// hasState reads the state of a process from /proc, if there is one.
func hasState(pid int, want string) func(context.Context) error {
	return func(context.Context) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, os.ErrNotExist) && pid > 0 {
			return nil // no such file system here: nothing can be seen
		}
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		if state := after[:1]; state != want {
			return fmt.Errorf("its state is %s", state)
		}
		return nil
	}
}

func TestOutputKeepsTheEnd(t *testing.T) {
	t.Parallel()
	p := testkit.StartProcess(t, testkit.ProcessConfig{
		Path: "sh", Args: []string{"-c", "seq 1 100000; echo the end >&2"}, OutputBytesMax: 100,
	})
	require.Equal(t, 0, p.Wait(time.Minute))
	require.Len(t, p.Output(), 100)
	require.True(t, strings.HasSuffix(p.Output(), "99999\n100000\nthe end\n"))
}

func TestFreePort(t *testing.T) {
	t.Parallel()
	given := make(map[int]bool)
	for range 50 {
		port := testkit.FreePort(t)
		require.False(t, given[port], "given twice")
		given[port] = true
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", testkit.FreeAddr(t))
	require.NoError(t, err)
	require.NoError(t, listener.Close())
}

// fakeT stands in for the test, to see how it is failed.
type fakeT struct {
	testing.TB
	failed  bool
	message string
	logs    []string
	cleanup []func()
}

func (f *fakeT) Helper()                 {}
func (f *fakeT) Failed() bool            { return f.failed }
func (f *fakeT) Cleanup(do func())       { f.cleanup = append(f.cleanup, do) }
func (f *fakeT) Logf(s string, a ...any) { f.logs = append(f.logs, fmt.Sprintf(s, a...)) }
func (f *fakeT) Fatalf(s string, a ...any) {
	f.failed, f.message = true, fmt.Sprintf(s, a...)
	panic(f) // as the real one ends the goroutine
}

// failure runs do, which has to fail, and its cleanup.
func failure(t *testing.T, do func(testing.TB)) *fakeT {
	t.Helper()
	f := &fakeT{TB: t}
	require.Panics(t, func() { do(f) })
	require.True(t, f.failed)
	for i := len(f.cleanup) - 1; i >= 0; i-- {
		f.cleanup[i]()
	}
	return f
}

func TestFailuresSayWhy(t *testing.T) {
	t.Parallel()
	never := func(context.Context) error { return errors.New("no process listens") }

	f := failure(t, func(tb testing.TB) {
		testkit.StartProcess(tb, testkit.ProcessConfig{Path: "/no/such/program"})
	})
	require.Contains(t, f.message, "/no/such/program")

	f = failure(t, func(tb testing.TB) {
		testkit.StartProcess(tb, testkit.ProcessConfig{Name: "server", Path: "sh", Args: []string{"-c", "echo port taken; exit 2"}, Ready: never})
	})
	require.Contains(t, f.message, "server ended before it was ready: exit status 2\nport taken")
	require.Contains(t, f.logs[0], "the end of what server wrote:\nport taken")

	f = failure(t, func(tb testing.TB) {
		testkit.StartProcess(tb, testkit.ProcessConfig{Path: "sleep", Args: []string{"1000"}, Ready: never, ReadyTimeout: 100 * time.Millisecond})
	})
	require.Contains(t, f.message, "sleep was not ready after 100ms: no process listens")

	f = failure(t, func(tb testing.TB) {
		ready := filepath.Join(tb.TempDir(), "ready")
		p := testkit.StartProcess(tb, testkit.ProcessConfig{
			Path: "sh", Args: []string{"-c", `trap "echo no" TERM QUIT; : >"$0"; while :; do sleep 0.05; done`, ready},
			StopTimeout: 100 * time.Millisecond,
			Ready:       func(context.Context) error { _, err := os.Stat(ready); return err },
		})
		p.Stop()
	})
	require.Contains(t, f.message, "sh did not stop within 100ms")

	f = failure(t, func(tb testing.TB) {
		testkit.WaitFor(tb, 50*time.Millisecond, "rain", func(context.Context) error { return errors.New("not a cloud") })
	})
	require.Equal(t, "waited 50ms for rain: not a cloud", f.message)

	f = failure(t, func(tb testing.TB) {
		p := testkit.StartProcess(tb, testkit.ProcessConfig{Path: "true"})
		p.Wait(time.Minute)
		p.Kill9()
	})
	require.Contains(t, f.message, "has ended already: exit status 0")

	f = failure(t, func(tb testing.TB) { testkit.NewProcess(tb, testkit.ProcessConfig{Path: "true"}).Stop() })
	require.Contains(t, f.message, "true was never started")

	f = failure(t, func(tb testing.TB) {
		p := testkit.StartProcess(tb, testkit.ProcessConfig{Path: "sleep", Args: []string{"1000"}})
		p.Start()
	})
	require.Contains(t, f.message, "still runs with pid")
}
