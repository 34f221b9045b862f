package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
)

// linesMax is how many lines are written at once.
const linesMax = 1000

// NDJSON writes messages as JSON, one object a line, as [messagelog.Encoder] makes them.
type NDJSON struct {
	name    string
	out     io.Writer
	file    *os.File // nil: standard output, which cannot be cut
	size    uint64
	encoder messagelog.Encoder
	lines   []byte
}

// NewNDJSON writes to out or, if a path is given, to that file.
func NewNDJSON(out io.Writer, path string) (*NDJSON, error) {
	if path == "" {
		return &NDJSON{name: "standard output", out: out}, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	return &NDJSON{name: "file " + path, out: file, file: file}, nil
}

// Close closes the file.
func (s *NDJSON) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// Name names the file.
func (s *NDJSON) Name() string { return s.name }

// BatchMax bounds what comes twice on standard output.
func (s *NDJSON) BatchMax() int { return linesMax }

// End is last.
func (s *NDJSON) End(_ context.Context, _ int, last uint64) (uint64, error) { return last, nil }

// Begin refuses a file that holds something already.
func (s *NDJSON) Begin(context.Context) (uint64, error) {
	if s.file == nil {
		return 0, nil
	}
	info, err := s.file.Stat()
	if err == nil && info.Size() > 0 {
		err = fmt.Errorf("%s is not empty, and no --state says that it is of this replay", s.file.Name())
	}
	if err != nil {
		return 0, fmt.Errorf("--output: %w", err)
	}
	return 0, nil
}

// Restore cuts the file to the length that is the mark.
func (s *NDJSON) Restore(_ context.Context, mark uint64) error {
	if s.file == nil {
		return nil
	}
	info, err := s.file.Stat()
	if err == nil && uint64(info.Size()) < mark {
		err = fmt.Errorf("%s has %d bytes, and %d were written: it is not the file of this replay", s.file.Name(), info.Size(), mark)
	}
	if err == nil {
		err = s.file.Truncate(int64(mark))
	}
	if err == nil {
		_, err = s.file.Seek(int64(mark), io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	s.size = mark
	return nil
}

// Put writes lines; a file is on disk then.
func (s *NDJSON) Put(_ context.Context, batch []messagelog.Entry) (uint64, error) {
	s.lines = s.lines[:0]
	var err error
	for _, r := range batch {
		if s.lines, err = s.encoder.Append(s.lines, r); err != nil {
			return 0, err
		}
	}
	if _, err := s.out.Write(s.lines); err != nil {
		return 0, fmt.Errorf("write messages: %w", err)
	}
	s.size += uint64(len(s.lines))
	if s.file != nil {
		if err := s.file.Sync(); err != nil {
			return 0, errors.Join(errors.New("write messages"), err)
		}
	}
	return s.size, nil
}
