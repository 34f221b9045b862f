package chdb

import (
	"fmt"
	"os"

	"github.com/sendhouse/sendhouse/pkg/chdb/internal/library"
)

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
