package access

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// followPollDefault is how often followed files are checked for changes.
const followPollDefault = 2 * time.Second

// follower reads a group of files, and reads them again when one of them has changed. It compares their contents: two
// changes may have the same modification time, and an orchestrator mounts symbolic links whose target changes.
type follower struct {
	what     string // describes the files in the log
	paths    []string
	bytesMax int // of one file
	poll     time.Duration
	log      *slog.Logger
	// take applies the files' contents, in the order of paths, or reports what is wrong with them.
	take func(files [][]byte) error

	// Used only by the goroutine that follows the files.
	seen   []byte // hash of the contents in force
	broken string // the last error logged
}

// open reads the files for the first time.
func (f *follower) open() error {
	files, sum, err := f.read()
	if err == nil {
		err = f.take(files)
	}
	f.seen = sum
	return err
}

// watch follows the files. The returned function stops it and waits for its goroutine.
func (f *follower) watch() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(f.poll)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				f.reload()
			case <-end:
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// reload applies the files if they have changed. An error is logged once, and the previous contents stay in force.
func (f *follower) reload() {
	files, sum, err := f.read()
	if err == nil && bytes.Equal(sum, f.seen) && f.broken == "" {
		return
	}
	if err == nil {
		err = f.take(files)
	}
	switch {
	case err == nil:
		f.seen, f.broken = sum, ""
		f.log.Info("reloaded files", "what", f.what, "files", f.paths)
	case err.Error() != f.broken:
		f.broken = err.Error()
		f.log.Error("cannot reload files; the previous contents stay in force", "what", f.what, "files", f.paths, "error", err)
	}
}

func (f *follower) read() (files [][]byte, sum []byte, err error) {
	h := sha256.New()
	for _, path := range f.paths {
		data, err := f.readOne(path, h)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, data)
	}
	return files, h.Sum(nil), nil
}

func (f *follower) readOne(path string, h hash.Hash) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, int64(f.bytesMax)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > f.bytesMax {
		return nil, errors.New("is larger than " + config.ByteSize(f.bytesMax).String())
	}
	fmt.Fprintf(h, "%d\n", len(data)) // so that the hash also covers where each file ends
	h.Write(data)
	return data, nil
}
