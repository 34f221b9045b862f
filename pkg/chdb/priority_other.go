//go:build !linux

package chdb

// lowerPriority does nothing: elsewhere a priority is the whole process's.
func lowerPriority() error { return nil }

func onMainThread() bool { return false }
