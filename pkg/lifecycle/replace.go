package lifecycle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

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
