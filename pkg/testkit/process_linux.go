package testkit

import "syscall"

// sysProcAttr puts the process into a group of its own, so that its children die with it, and has
// the kernel kill it when the thread that started it ends: tests that time out run no cleanup.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
