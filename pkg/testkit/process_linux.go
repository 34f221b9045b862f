package testkit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// sysProcAttr puts the process into a group of its own, so that its children die with it, and has
// the kernel kill it when the thread that started it ends: tests that time out run no cleanup.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// halted is nil when every thread of a process has stopped. A signal reaches them one after another.
func halted(pid int) error {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return err
		}
		// pid (name) state …, and the name may hold anything.
		_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
		if !strings.HasPrefix(rest, "T") {
			return fmt.Errorf("%s: state %.1s", file, rest)
		}
	}
	return nil
}
