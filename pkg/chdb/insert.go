package chdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// insert runs an INSERT whose data comes from a reader. The data is written to a private file before anything else happens and inserted
// from there: SQL text with binary data in it does not survive the engine's interface, and a reader that breaks off must insert nothing.
// FROM INFILE passes the engine's INSERT the same as a server does: columns by name, defaults for those left out, and blocks as they
// are in the data, which is what deduplication needs.
func (e *Engine) insert(ctx context.Context, req request, parsed statement, data io.Reader) (stats, error) {
	path, size, err := e.spool(data)
	if err != nil {
		return stats{}, err
	}
	defer e.unspool(path, size)
	s, err := e.begin(ctx, e.inserts, req)
	if err != nil {
		return stats{}, err
	}
	defer s.end()
	s.endWith(e.ending)
	res, err := s.conn.exec(parsed.withInfile(path), "Null")
	if err != nil {
		return stats{}, s.cause(ctx, withoutPath(err, path))
	}
	defer res.free()
	return res.stats(), nil
}

// withoutPath takes the private file out of the engine's message: the client knows nothing of it.
func withoutPath(err error, path string) error {
	var exception *Exception
	if !errors.As(err, &exception) {
		return err
	}
	return &Exception{Code: exception.Code, Message: strings.ReplaceAll(exception.Message, " (in file/uri "+path+")", "")}
}

// spool writes data to a file of its own in the spool folder. The caller owes unspool.
func (e *Engine) spool(data io.Reader) (path string, size int64, err error) {
	file, err := os.CreateTemp(e.folder.spoolPath, "insert-*")
	if err != nil {
		return "", 0, storageError(err)
	}
	limited := &spoolReader{from: data, engine: e}
	_, err = io.Copy(file, limited)
	if err = errors.Join(err, file.Close()); err != nil {
		e.unspool(file.Name(), limited.size)
		return "", 0, storageError(err)
	}
	return file.Name(), limited.size, nil
}

// storageError adds to an error of the disk the code that a server would have returned. Errors of the client have one already.
func storageError(err error) error {
	var exception *Exception
	switch {
	case errors.As(err, &exception):
		return exception
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &Exception{Code: codeNotEnoughSpace, Message: fmt.Sprintf("No space for the data of an INSERT: %v. (NOT_ENOUGH_SPACE)", err)}
	}
	return &Exception{Code: codeCannotWrite, Message: fmt.Sprintf("Cannot keep the data of an INSERT: %v. (CANNOT_WRITE_TO_FILE_DESCRIPTOR)", err)}
}

func (e *Engine) unspool(path string, size int64) {
	e.spooled.Add(-size)
	if err := os.Remove(path); err != nil {
		e.log.Warn("cannot remove the data of a finished insert", "path", path, "error", err)
	}
}

// spoolReader counts what is spooled, of one insert and of all, and stops at either limit.
type spoolReader struct {
	from   io.Reader
	engine *Engine
	size   int64
}

func (r *spoolReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.size += int64(n)
	all := r.engine.spooled.Add(int64(n))
	if r.size > r.engine.config.InsertBytesMax {
		return 0, &Exception{Code: codeTooManyBytes, Message: fmt.Sprintf(
			"The data of an INSERT may have up to %d bytes. Send it in parts. (TOO_MANY_BYTES)", r.engine.config.InsertBytesMax)}
	}
	if all > r.engine.config.SpoolBytesMax {
		return 0, &Exception{Code: codeTooManyQueries, Message: fmt.Sprintf(
			"INSERT statements under way hold %d bytes, the most they may. Try again later. (TOO_MANY_SIMULTANEOUS_QUERIES)",
			r.engine.config.SpoolBytesMax)}
	}
	return n, err
}
