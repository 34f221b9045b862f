package testkit

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What a ProcessConfig without a value gets.
const (
	ReadyTimeoutDefault   = 60 * time.Second
	StopTimeoutDefault    = 60 * time.Second
	OutputBytesMaxDefault = 64 << 10
)

// pipeDelay is how long to wait, after a process has died, for those who inherited its output.
const pipeDelay = 5 * time.Second

// ProcessConfig says how to run a command.
type ProcessConfig struct {
	Name string   // for messages; the last element of Path if empty
	Path string   // of the executable, or its name to look for in PATH
	Args []string // without the name
	Env  []string // KEY=value, on top of the environment of the test
	Dir  string   // working directory; the test's own if empty

	// Ready is asked until it returns nil; then Start returns. With no Ready, Start returns at once.
	Ready        func(ctx context.Context) error
	ReadyTimeout time.Duration // 0 means ReadyTimeoutDefault
	StopTimeout  time.Duration // for Stop; 0 means StopTimeoutDefault

	OutputBytesMax int // how much of the end of its output is kept; 0 means OutputBytesMaxDefault
}

// Process is a command that can be stopped, killed and started again. Its methods fail the test
// instead of returning errors, so they belong to the goroutine of the test.
type Process struct {
	t      testing.TB
	cfg    ProcessConfig
	output *tail

	mu  sync.Mutex
	run *run // the latest one
}

// run is one life of a process.
type run struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its output is complete
	err  error         // of cmd.Wait; read it after done
}

// NewProcess prepares a command without starting it, and sees to it that the test leaves none behind.
func NewProcess(t testing.TB, cfg ProcessConfig) *Process {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = filepath.Base(cfg.Path)
	}
	if cfg.ReadyTimeout <= 0 {
		cfg.ReadyTimeout = ReadyTimeoutDefault
	}
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = StopTimeoutDefault
	}
	if cfg.OutputBytesMax <= 0 {
		cfg.OutputBytesMax = OutputBytesMaxDefault
	}
	p := &Process{t: t, cfg: cfg, output: newTail(cfg.OutputBytesMax)}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the end of what %s wrote:\n%s", cfg.Name, p.Output())
		}
	})
	return p
}

// StartProcess starts a command and waits until it is ready.
func StartProcess(t testing.TB, cfg ProcessConfig) *Process {
	t.Helper()
	p := NewProcess(t, cfg)
	p.Start()
	return p
}

// Start runs the command, for the first time or after its last run has ended, and waits until it is ready.
func (p *Process) Start() {
	p.t.Helper()
	p.Launch()
	p.WaitReady()
}

// Launch is Start without waiting: for processes that only become ready together.
func (p *Process) Launch() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil && !p.run.ended() {
		p.t.Fatalf("%s is started, but still runs with pid %d", p.cfg.Name, p.run.cmd.Process.Pid)
	}
	cmd := exec.CommandContext(context.WithoutCancel(p.t.Context()), p.cfg.Path, p.cfg.Args...)
	cmd.Env = append(os.Environ(), p.cfg.Env...)
	cmd.Dir = p.cfg.Dir
	cmd.Stdout, cmd.Stderr = p.output, p.output
	cmd.SysProcAttr = sysProcAttr()
	cmd.WaitDelay = pipeDelay

	r := &run{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() { // ends with the process
		// The kernel kills the child when the thread that started it ends (see sysProcAttr).
		// Locked here, that thread lasts as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			r.err = cmd.Wait()
			// Children that it left behind. As long as there are any, the number is not used again.
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			close(r.done)
		}
	}()
	if err := <-started; err != nil {
		p.t.Fatalf("start %s: %v", p.cfg.Name, err)
	}
	p.run = r
}

// WaitReady waits until the process is ready, and fails the test if it ends before that.
func (p *Process) WaitReady() {
	p.t.Helper()
	if p.cfg.Ready == nil {
		return
	}
	r := p.current()
	err := poll(p.t.Context(), p.cfg.ReadyTimeout, r.done, p.cfg.Ready)
	switch {
	case r.ended():
		p.t.Fatalf("%s ended before it was ready: %v\n%s", p.cfg.Name, r.describe(), p.Output())
	case err != nil:
		p.t.Fatalf("%s was not ready after %s: %v\n%s", p.cfg.Name, p.cfg.ReadyTimeout, err, p.Output())
	}
}

// PID is the process number of the latest run, which is also that of its process group.
func (p *Process) PID() int { return p.current().cmd.Process.Pid }

// Output returns the end of what all runs so far have written to standard output and standard error.
func (p *Process) Output() string { return p.output.String() }

// Done is closed when the latest run has ended.
func (p *Process) Done() <-chan struct{} { return p.current().done }

// Wait waits for the latest run to end by itself, and returns its exit status: -1 if a signal ended it.
func (p *Process) Wait(timeout time.Duration) (status int) {
	p.t.Helper()
	r := p.current()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-r.done:
		return r.cmd.ProcessState.ExitCode()
	case <-timer.C:
		p.t.Fatalf("%s still runs after %s", p.cfg.Name, timeout)
		return -1
	}
}

// Stop asks the process to end with SIGTERM, waits for it, and returns its exit status. One that does
// not end within the StopTimeout is killed, and the test fails.
func (p *Process) Stop() (status int) {
	p.t.Helper()
	r := p.current()
	r.signal(syscall.SIGTERM)
	r.signal(syscall.SIGCONT) // one that is paused would not see the first
	timer := time.NewTimer(p.cfg.StopTimeout)
	defer timer.Stop()
	select {
	case <-r.done:
		return r.cmd.ProcessState.ExitCode()
	case <-timer.C:
	}
	r.signal(syscall.SIGQUIT) // a Go program then writes where it hangs
	select {
	case <-r.done:
	case <-time.After(pipeDelay):
		p.kill()
	}
	p.t.Fatalf("%s did not stop within %s:\n%s", p.cfg.Name, p.cfg.StopTimeout, p.Output())
	return -1
}

// Kill9 ends the process and its children at once, as kill -9 does, and waits until it is gone.
func (p *Process) Kill9() {
	p.t.Helper()
	r := p.current()
	if r.ended() {
		p.t.Fatalf("%s is to be killed, but has ended already: %v\n%s", p.cfg.Name, r.describe(), p.Output())
	}
	p.kill()
}

// Pause stops the process in its tracks (SIGSTOP): it keeps its connections and answers nothing. It returns when
// the process stands.
func (p *Process) Pause() {
	p.t.Helper()
	r := p.current()
	r.signal(syscall.SIGSTOP)
	err := poll(p.t.Context(), p.cfg.StopTimeout, r.done, func(context.Context) error { return halted(r.cmd.Process.Pid) })
	if err != nil && !r.ended() {
		p.t.Fatalf("%s does not stand still: %v", p.cfg.Name, err)
	}
}

// Resume lets a paused process continue.
func (p *Process) Resume() { p.current().signal(syscall.SIGCONT) }

// Signal sends any other signal.
func (p *Process) Signal(s syscall.Signal) { p.current().signal(s) }

func (p *Process) current() *run {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		p.t.Fatalf("%s was never started", p.cfg.Name)
	}
	return p.run
}

// kill ends the latest run if there is one. It is also the cleanup, so it fails nothing.
func (p *Process) kill() {
	p.mu.Lock()
	r := p.run
	p.mu.Unlock()
	if r == nil {
		return
	}
	r.signal(syscall.SIGKILL)
	<-r.done
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// signal reaches the whole process group, and nothing once the process has ended: its number may
// by then belong to another.
func (r *run) signal(s syscall.Signal) {
	if r.ended() {
		return
	}
	// It may end at this very moment: then there is nothing left to signal.
	_ = syscall.Kill(-r.cmd.Process.Pid, s)
}

func (r *run) describe() error {
	if r.err == nil {
		return errors.New("exit status 0")
	}
	return r.err
}

// tail is a writer that keeps the last bytes written to it.
type tail struct {
	max int

	mu   sync.Mutex
	kept []byte
}

func newTail(bytesMax int) *tail { return &tail{max: bytesMax} }

// Write never fails.
func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, p...)
	// Cut only when twice the size is reached, so that not every line is a copy of all.
	if len(o.kept) > 2*o.max {
		cut := len(o.kept) - o.max
		o.kept = append(o.kept[:0], o.kept[cut:]...)
	}
	return len(p), nil
}

// String returns what is kept.
func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := o.kept
	if len(kept) > o.max {
		kept = kept[len(kept)-o.max:]
	}
	return string(kept)
}
