package chdb

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/sendhouse/sendhouse/pkg/chdb/internal/library"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// folder is the data folder, held by this process.
type folder struct {
	enginePath string // What ClickHouse calls its path.
	configPath string
	usersPath  string
	spoolPath  string // The data of inserts on their way in.
	lock       *os.File
}

// openFolder makes the data folder if need be and takes it for this process. The engine has a lock of its own; this one comes before it
// because the engine's complaint goes to standard error and cannot be answered with advice.
func openFolder(path string, log *slog.Logger) (*folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the data folder: %w", err)
	}
	held := &folder{
		enginePath: filepath.Join(path, "engine"),
		configPath: filepath.Join(path, "engine.xml"),
		usersPath:  filepath.Join(path, "users.xml"),
		spoolPath:  filepath.Join(path, "spool"),
	}
	if err := MakeFolder(path); err != nil {
		return nil, err
	}
	if held.lock, err = lockFolder(path, log); err != nil {
		return nil, err
	}
	if err := held.prepare(); err != nil {
		_ = held.lock.Close()
		return nil, folderError(path, err)
	}
	return held, nil
}

// prepare makes the folders inside. Data of inserts that a kill left behind is removed: those inserts were never acknowledged.
func (f *folder) prepare() error {
	// The engine starts the tasks that DROP … SYNC waits for only if it finds the folder "metadata" when it starts. In a fresh data
	// folder it would make that later, and the first DROP … SYNC would wait forever.
	if err := os.MkdirAll(filepath.Join(f.enginePath, "metadata"), 0o750); err != nil {
		return err
	}
	if err := os.RemoveAll(f.spoolPath); err != nil {
		return err
	}
	if err := os.Mkdir(f.spoolPath, 0o700); err != nil {
		return err
	}
	probe, err := os.CreateTemp(f.enginePath, ".writable-*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// release unlocks the folder. The lock file stays: to remove it would let two processes lock two files of one name.
func (f *folder) release() error {
	if err := f.lock.Close(); err != nil {
		return fmt.Errorf("unlock the data folder: %w", err)
	}
	return nil
}

func lockFolder(path string, log *slog.Logger) (*os.File, error) {
	lock, err := lifecycle.Lock(filepath.Join(path, "lock"), lifecycle.LockWait, func(err error) {
		log.Info("ClickHouse data folder is locked; waiting in case its holder is ending", "folder", path, "error", err)
	})
	var locked *lifecycle.LockedError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("%w: %s: %w; stop that process or choose another data folder", ErrLocked, path, err)
	}
	if err != nil {
		return nil, folderError(path, err)
	}
	return lock, nil
}

func folderError(path string, err error) error {
	return fmt.Errorf("%w: %s: %w; make it writable for this user, or choose another data folder", ErrUnwritable, path, err)
}

// LibraryPath is where libchdb is: at override, if that is not empty, and otherwise as Config.LibraryPath says. The error is ErrLibrary.
func LibraryPath(override string) (string, error) {
	path, err := library.Locate(override)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrLibrary, err)
	}
	return path, nil
}

// MakeFolder makes the data folder, if it is missing. The error is ErrUnwritable.
func MakeFolder(path string) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return folderError(path, err)
	}
	return nil
}
