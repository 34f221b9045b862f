package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// LockWait is how long a process waits for a lock whose holder may be dying: the system needs a while to take
	// a process with much memory and many files down, and a supervisor starts the next one at once.
	LockWait  = 3 * time.Second
	lockPause = 50 * time.Millisecond
)

// LockedError is the error of a lock that another process has.
type LockedError struct {
	Path   string
	Holder string // its process id; empty if the file does not say
}

// Error names the holder and the file.
func (e *LockedError) Error() string {
	holder := "another process"
	if e.Holder != "" {
		holder = "process " + e.Holder
	}
	return fmt.Sprintf("%s holds the lock %s", holder, e.Path)
}

// Lock opens a file, makes it if need be, and locks it for this process until it is closed or the process ends. The file then
// holds the process id. While another process has the lock, Lock tries again for the given time, calls waiting when
// that begins, and then returns a [LockedError]. Other errors name the file.
func Lock(path string, wait time.Duration, waiting func(error)) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	begun := time.Now()
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		locked := &LockedError{Path: path, Holder: holder(file)}
		if waiting != nil {
			waiting(locked)
			waiting = nil
		}
		if time.Since(begun) >= wait {
			_ = file.Close() // nothing was written
			return nil, locked
		}
		<-time.After(lockPause)
	}
	if err != nil {
		err = &os.PathError{Op: "lock", Path: path, Err: err}
	} else if err = file.Truncate(0); err == nil {
		_, err = file.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	}
	if err != nil {
		_ = file.Close() // the error before says more
		return nil, err
	}
	return file, nil
}

// holder reads whose lock it is.
func holder(file *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 32))
	if err != nil {
		return "" // it is only told to the operator
	}
	return strings.TrimSpace(string(text))
}

// ReplaceFile writes a file so that its name stands for the whole content or for what was there before, also after a power failure.
// The content is written to the same name with ".new" first; what an earlier process may have left there is removed. A new
// file has the permissions perm, before umask. Errors name the file.
func ReplaceFile(path string, content []byte, perm fs.FileMode) error {
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err //nolint:wrapcheck // names the file
	}
	file, err := os.OpenFile(unfinished, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err //nolint:wrapcheck // names the file
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err //nolint:wrapcheck // names the folder
	}
	return errors.Join(folder.Sync(), folder.Close())
}
