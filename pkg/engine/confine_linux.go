package engine

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

const (
	// landlockFiles is the first version of Landlock that can hold the engine: it moves files between its folders (Linux 5.19).
	landlockFiles = 2
	// landlockConnections is the first one that can forbid connections (Linux 6.7).
	landlockConnections = 4

	// niceness of all of the engine's process, so that what answers sends comes first when cores are short: a thread with 5 then gets a
	// third of what others get (weights of 335 and 1024, sched_prio_to_weight in Linux's kernel/sched/core.c). docs/adr/0011 compares values.
	niceness = 5
)

// start starts the program at a lower priority and in a Landlock domain. The warning says what the kernel cannot confine; nil: nothing.
//
// A domain is a thread's and what it starts inherits it. The library that loads libchdb makes Go believe that it uses cgo, so that a
// running process cannot restrict all of its threads; so one thread of the parent restricts itself and starts the child. It stays until
// ended is closed, which the caller does when the child has ended: the kernel kills the child when that thread ends, and so when the
// parent does.
func start(cmd *exec.Cmd, dataDir, libraryPath string, ended <-chan struct{}) (warning, err error) {
	// The C library finds a thread's stack in /proc/self, which is another folder in each process, so /proc is open as a whole.
	rules := []landlock.Rule{
		landlock.RWDirs(dataDir).WithRefer(),
		landlock.RWFiles("/dev/null").IgnoreIfMissing(),
		readFiles("/dev/zero", "/dev/random", "/dev/urandom", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/timezone", libraryPath),
		readFolders("/proc", "/sys/fs/cgroup", "/sys/devices/system", "/sys/kernel/mm", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"),
		landlock.ROFiles(cmd.Path), // With the right to run it.
	}
	if loader, err := interpreter(cmd.Path); err == nil && loader != "" {
		rules = append(rules, landlock.ROFiles(loader))
	}
	ruleset, flags, err := landlock.V10.BestEffort().NewRulesetFD(rules...)
	version, versionErr := ll.LandlockGetABIVersion()
	switch {
	case err != nil:
		warning = fmt.Errorf("files and connections are not confined: %w", err)
	case ruleset < 0 || versionErr != nil:
		warning = errors.New("files and connections are not confined: the kernel has no Landlock")
	case version < landlockFiles:
		warning = fmt.Errorf("files and connections are not confined: version %d of Landlock is too old", version)
	case version < landlockConnections:
		warning = fmt.Errorf("connections are not confined: version %d of Landlock is too old", version)
	}
	if ruleset >= 0 {
		defer func() { _ = syscall.Close(ruleset) }()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go onThreadThatEnds(func() {
		err := startRestricted(cmd, ruleset, flags)
		started <- err
		if err == nil {
			<-ended
		}
	})
	return warning, <-started
}

// onThreadThatEnds runs f on a thread that ends with it. The main thread would not end, and tools show its priority as the process's.
func onThreadThatEnds(f func()) {
	runtime.LockOSThread() // Not unlocked after f: so the thread ends with the goroutine.
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	another := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(another)
		f()
	}()
	<-another
	runtime.UnlockOSThread()
}

// startRestricted lowers the priority of this thread, restricts it by the ruleset, if it is not negative, and starts the program from it.
func startRestricted(cmd *exec.Cmd, ruleset int, flags uint32) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
		return fmt.Errorf("lower the priority of the engine: %w", err)
	}
	if ruleset >= 0 {
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = ll.LandlockRestrictSelf(ruleset, flags)
		}
		if err != nil {
			return fmt.Errorf("confine the engine: %w", err)
		}
	}
	return cmd.Start()
}

// readFiles lets files be read, but not be run.
func readFiles(paths ...string) landlock.Rule {
	return landlock.PathAccess(ll.AccessFSReadFile, paths...).IgnoreIfMissing()
}

// readFolders lets folders be read with what is in them.
func readFolders(paths ...string) landlock.Rule {
	return landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSReadDir, paths...).IgnoreIfMissing()
}

// interpreter is the loader that the program at path names, or nothing.
func interpreter(path string) (string, error) {
	file, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer func() { _ = file.Close() }()
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			name, err := io.ReadAll(part.Open())
			if err != nil {
				return "", fmt.Errorf("read %s: %w", path, err)
			}
			return strings.TrimRight(string(name), "\x00"), nil
		}
	}
	return "", nil
}
