package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// binding holds the functions of libchdb's C interface that are used, bound without cgo. Handles (connections, results) belong to the
// library; the type unsafe.Pointer says no more than that.
type binding struct {
	connect  func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	close    func(conn unsafe.Pointer)
	query    func(conn, sql unsafe.Pointer, sqlBytes uintptr, format unsafe.Pointer, formatBytes uintptr) unsafe.Pointer
	stream   func(conn, sql unsafe.Pointer, sqlBytes uintptr, format unsafe.Pointer, formatBytes uintptr) unsafe.Pointer
	fetch    func(conn, stream unsafe.Pointer) unsafe.Pointer
	cancel   func(conn, stream unsafe.Pointer)
	destroy  func(result unsafe.Pointer)
	buffer   func(result unsafe.Pointer) unsafe.Pointer
	length   func(result unsafe.Pointer) uintptr
	errorOf  func(result unsafe.Pointer) unsafe.Pointer
	rows     func(result unsafe.Pointer) uint64
	readRows func(result unsafe.Pointer) uint64
	readSize func(result unsafe.Pointer) uint64
	putRows  func(result unsafe.Pointer) uint64
	putSize  func(result unsafe.Pointer) uint64

	// setSignalHandlers(0) makes the next connect leave out the engine's own signal handlers, and resets those that are there;
	// setSignalHandlers(1) only takes that wish back. See signals.go.
	setSignalHandlers func(enabled int32)
	signals           signalGuard
}

// load maps the library at path into the process and binds its functions. The library stays loaded for the life of the process: it starts
// threads that never end.
func load(path string) (*binding, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be loaded: %w; run `make deps`", ErrLibrary, path, err)
	}
	bound := new(binding)
	for name, function := range map[string]any{
		"chdb_connect":                     &bound.connect,
		"chdb_close_conn":                  &bound.close,
		"chdb_query_n":                     &bound.query,
		"chdb_stream_query_n":              &bound.stream,
		"chdb_stream_fetch_result":         &bound.fetch,
		"chdb_stream_cancel_query":         &bound.cancel,
		"chdb_destroy_query_result":        &bound.destroy,
		"chdb_result_buffer":               &bound.buffer,
		"chdb_result_length":               &bound.length,
		"chdb_result_error":                &bound.errorOf,
		"chdb_result_rows_read":            &bound.rows,
		"chdb_result_storage_rows_read":    &bound.readRows,
		"chdb_result_storage_bytes_read":   &bound.readSize,
		"chdb_result_rows_written":         &bound.putRows,
		"chdb_result_bytes_written":        &bound.putSize,
		"chdb_set_signal_handlers_enabled": &bound.setSignalHandlers,
	} {
		address, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("%w: %s has no function %s, so it is not the version that is wanted; run `make deps`", ErrLibrary, path, name)
		}
		purego.RegisterFunc(function, address)
	}
	if err := bound.signals.bind(); err != nil {
		return nil, err
	}
	return bound, nil
}

// stats is what the engine counts for one statement.
type stats struct {
	ResultRows   uint64
	ReadRows     uint64
	ReadBytes    uint64
	WrittenRows  uint64
	WrittenBytes uint64
}

func (s *stats) add(more stats) {
	s.ResultRows += more.ResultRows
	s.ReadRows += more.ReadRows
	s.ReadBytes += more.ReadBytes
	s.WrittenRows += more.WrittenRows
	s.WrittenBytes += more.WrittenBytes
}

// connection is one session of the engine. Sessions are cheap (0.1 ms), share nothing but the data, and are used by one goroutine at a time.
type connection struct {
	lib    *binding
	handle unsafe.Pointer
}

// errNoConnection is all that the C interface tells of a connection that was refused; the engine writes the reason to standard error.
var errNoConnection = errors.New("the engine refused the connection")

// open starts a session with the given arguments. The first one in a process starts the engine.
func (b *binding) open(arguments []string) (*connection, error) {
	argv := make([]*byte, 0, len(arguments)+2)
	for _, argument := range append([]string{"clickhouse"}, arguments...) {
		argv = append(argv, &append([]byte(argument), 0)[0])
	}
	argv = append(argv, nil)
	handle := b.connect(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	runtime.KeepAlive(argv)
	if handle == nil {
		return nil, errNoConnection
	}
	return &connection{lib: b, handle: handle}, nil
}

func (c *connection) close() {
	c.lib.close(c.handle)
	c.handle = nil
}

// session is the pointer that the query functions take: chdb_connect returns a pointer to it.
func (c *connection) session() unsafe.Pointer { return *(*unsafe.Pointer)(c.handle) }

// exec runs one or more statements and holds the whole output of the last one in the engine's memory. The error is an *Exception.
func (c *connection) exec(sql, format string) (*result, error) {
	text, name := cString(sql), cString(format)
	res := c.lib.query(c.session(), unsafe.Pointer(&text[0]), uintptr(len(sql)), unsafe.Pointer(&name[0]), uintptr(len(format)))
	runtime.KeepAlive(text)
	runtime.KeepAlive(name)
	return c.result(res)
}

// run is exec for a statement whose output is discarded.
func (c *connection) run(sql string) error {
	res, err := c.exec(sql, "Null")
	if err != nil {
		return err
	}
	res.free()
	return nil
}

// start begins a SELECT whose output is fetched block by block. Each block is a whole document in the format. Anything but a SELECT is
// refused with code 36, before anything of it was done.
func (c *connection) start(sql, format string) (*stream, error) {
	text, name := cString(sql), cString(format)
	res := c.lib.stream(c.session(), unsafe.Pointer(&text[0]), uintptr(len(sql)), unsafe.Pointer(&name[0]), uintptr(len(format)))
	runtime.KeepAlive(text)
	runtime.KeepAlive(name)
	if err := c.errorIn(res); err != nil {
		c.lib.destroy(res)
		return nil, err
	}
	return &stream{conn: c, handle: res}, nil
}

func (c *connection) result(handle unsafe.Pointer) (*result, error) {
	if err := c.errorIn(handle); err != nil {
		c.lib.destroy(handle)
		return nil, err
	}
	return &result{lib: c.lib, handle: handle}, nil
}

func (c *connection) errorIn(result unsafe.Pointer) error {
	if result == nil {
		return &Exception{Code: codeLogicalError, Message: "the engine gave no result"}
	}
	if text := goString(c.lib.errorOf(result)); text != "" {
		return parseException(text)
	}
	return nil
}

// stream is a running SELECT.
type stream struct {
	conn   *connection
	handle unsafe.Pointer
	done   bool
}

// next waits for the next block and returns it, or nil after the last one.
func (s *stream) next() (*result, error) {
	if s.done {
		return nil, nil // The end of a stream is neither a block nor an error.
	}
	res, err := s.conn.result(s.conn.lib.fetch(s.conn.session(), s.handle))
	if err != nil {
		s.done = true
		return nil, err
	}
	// The engine ends the stream with output that has no rows, which is nothing at all, or the totals. It would answer the next question
	// with an error.
	s.done = s.conn.lib.rows(res.handle) == 0
	if s.conn.lib.length(res.handle) == 0 {
		s.done = true
		res.free()
		return nil, nil
	}
	return res, nil
}

// close ends the query if it still runs and frees it.
func (s *stream) close() {
	if !s.done {
		s.conn.lib.cancel(s.conn.session(), s.handle)
		s.done = true
	}
	s.conn.lib.destroy(s.handle)
	s.handle = nil
}

// result is output that lies in the engine's memory.
type result struct {
	lib    *binding
	handle unsafe.Pointer
}

// data is the output itself, not a copy: it is gone after free.
func (r *result) data() []byte {
	return unsafe.Slice((*byte)(r.lib.buffer(r.handle)), int(r.lib.length(r.handle)))
}

func (r *result) stats() stats {
	return stats{
		ResultRows: r.lib.rows(r.handle),
		ReadRows:   r.lib.readRows(r.handle), ReadBytes: r.lib.readSize(r.handle),
		WrittenRows: r.lib.putRows(r.handle), WrittenBytes: r.lib.putSize(r.handle),
	}
}

func (r *result) free() {
	r.lib.destroy(r.handle)
	r.handle = nil
}

// cString is text with the final zero that the C interface wants even if the length is passed.
func cString(text string) []byte {
	return append(append(make([]byte, 0, len(text)+1), text...), 0)
}

// goString copies the zero-terminated text at p.
func goString(p unsafe.Pointer) string {
	if p == nil {
		return ""
	}
	length := 0
	for *(*byte)(unsafe.Add(p, length)) != 0 {
		length++
	}
	return string(unsafe.Slice((*byte)(p), length))
}
