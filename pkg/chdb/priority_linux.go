package chdb

import (
	"fmt"
	"os"
	"syscall"
)

// niceness of the quiet threads, from 0 (as any other) to 19. Where cores are short, a thread with 5 gets a third of what others get
// (weights of 335 and 1024, sched_prio_to_weight in Linux's kernel/sched/core.c). docs/adr/0011 compares values.
const niceness = 5

// lowerPriority lowers the priority of the calling thread alone, which nobody is forbidden to do. Only the privileged can raise it again.
func lowerPriority() error {
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness); err != nil {
		return fmt.Errorf("lower the priority of a thread: %w", err)
	}
	return nil
}

func onMainThread() bool { return syscall.Gettid() == os.Getpid() }
