package broker

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropCaches has the files of a folder, which are synced, read from disk the next time.
func dropCaches(dir string) error {
	return eachFile(dir, func(file *os.File) error {
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
			return err //nolint:wrapcheck // names the file
		}
		return os.NewSyscallError("fadvise", unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED))
	})
}
