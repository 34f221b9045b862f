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

// followPollDefault is how soon a change of a followed file is seen.
const followPollDefault = 2 * time.Second

// follower reads files that belong together, and again when one of them has changed. It
// compares what is in them: two changes may have one time, and what an orchestrator mounts
// is a link that begins to lead elsewhere.
type follower struct {
	what     string // they are, for the log
	paths    []string
	bytesMax int // of one file
	poll     time.Duration
	log      *slog.Logger
	// take puts the files' contents, in the order of paths, in force, or says what is wrong with them.
	take func(files [][]byte) error

	// Only the goroutine that follows uses them.
	seen   []byte // hash of what is in force
	broken string // what was last said of what is not
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

// watch follows the files until the returned function is called, which waits for its
// goroutine.
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

// reload takes the files if they have changed. What is broken is reported once, and what
// was before stays in force.
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
		f.log.Info("files were read again", "what", f.what, "files", f.paths)
	case err.Error() != f.broken:
		f.broken = err.Error()
		f.log.Error("files could not be read again; what was read before stays in force", "what", f.what, "files", f.paths, "error", err)
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
	fmt.Fprintf(h, "%d\n", len(data)) // so that where one file ends counts too
	h.Write(data)
	return data, nil
}
