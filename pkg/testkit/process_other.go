//go:build !linux

package testkit

import "syscall"

// sysProcAttr puts the process into a group of its own, so that its children die with it.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// halted cannot be asked here.
func halted(int) error { return nil }
