package engine

import (
	"os"

	"golang.org/x/sys/unix"
)

// duplicate is the file of fd once more, closed when another program is run.
func duplicate(fd uintptr) (*os.File, error) {
	other, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(other), "listener"), nil
}
