package engine

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sendhouse/sendhouse/pkg/guard"
)

// What a byte on the control connection says to the child.
const (
	controlConnection = 'c' // With it comes a connection of the owner.
	controlEnd        = 'e' // Finish and end.
)

const (
	settingsBytesMax = 1 << 20
	// controlTimeout bounds a write to the child, which may be stopped.
	controlTimeout = 5 * time.Second
	// fileBytes is the length of a file descriptor in a control message.
	fileBytes = 4
)

// settings are what the child is to do.
type settings struct {
	DataDir, LibraryPath string
	User, Password       string
	ReaderDatabase       string
	Hosts                guard.Hosts
}

// event is a line of the child. Exactly one of the fields is set.
type event struct {
	Ready  *struct{}       `json:"ready,omitempty"`
	Failed *failure        `json:"failed,omitempty"`
	Log    json.RawMessage `json:"log,omitempty"`
}

// failure says why the child could not start.
type failure struct {
	Error string `json:"error"`
	// Final failures are mistakes of the installation, which another try would repeat.
	Final bool `json:"final"`
}

// socketPair is a pair of connected sockets that no other program inherits.
func socketPair(name string) (ours net.Conn, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(ends[0])
		syscall.CloseOnExec(ends[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	theirs = os.NewFile(uintptr(ends[1]), name)
	ours, err = fileConn(os.NewFile(uintptr(ends[0]), name))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// fileConn makes a connection of the file, which is closed.
func fileConn(file *os.File) (net.Conn, error) {
	conn, err := net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("use a socket: %w", err)
	}
	return conn, nil
}

// controller is the parent's end of the control connection.
type controller struct {
	conn *net.UnixConn
	mu   sync.Mutex // One write at a time.
}

func (c *controller) sendSettings(s settings) error {
	text, err := json.Marshal(s) //nolint:gosec // the password too, to our own child
	if err != nil {
		return fmt.Errorf("encode the engine's settings: %w", err)
	}
	return c.send(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...), nil)
}

// connect sends the child one end of a new connection and returns the other.
func (c *controller) connect() (net.Conn, error) {
	ours, theirs, err := socketPair("engine connection")
	if err != nil {
		return nil, err
	}
	err = c.send([]byte{controlConnection}, syscall.UnixRights(int(theirs.Fd())))
	if err := errors.Join(err, theirs.Close()); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

func (c *controller) end() error { return c.send([]byte{controlEnd}, nil) }

func (c *controller) send(text, rights []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(controlTimeout)); err != nil {
		return fmt.Errorf("write to the engine: %w", err)
	}
	if _, _, err := c.conn.WriteMsgUnix(text, rights, nil); err != nil {
		return fmt.Errorf("write to the engine: %w", err)
	}
	return nil
}

// controlled is the child's end of the control connection.
type controlled struct {
	conn *net.UnixConn
	mu   sync.Mutex
}

func (c *controlled) readSettings() (s settings, err error) {
	var size [4]byte
	if _, err := io.ReadFull(c.conn, size[:]); err != nil {
		return s, fmt.Errorf("read the settings: %w", err)
	}
	if binary.BigEndian.Uint32(size[:]) > settingsBytesMax {
		return s, errors.New("read the settings: they are too long")
	}
	text := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c.conn, text); err != nil {
		return s, fmt.Errorf("read the settings: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the settings: %w", err)
	}
	return s, nil
}

// serve passes connections to accept until the parent wants an end, which is nil, or has gone, which is an error.
func (c *controlled) serve(accept func(net.Conn)) error {
	text, rights := make([]byte, 1), make([]byte, syscall.CmsgSpace(fileBytes))
	for {
		_, size, _, _, err := c.conn.ReadMsgUnix(text, rights)
		if err != nil {
			return fmt.Errorf("read from the parent: %w", err)
		}
		if text[0] == controlEnd {
			return nil
		}
		conn, err := receivedConn(rights[:size])
		if err != nil {
			continue // No file descriptors are left. The parent's end is closed, which its user sees.
		}
		accept(conn)
	}
}

func receivedConn(rights []byte) (net.Conn, error) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(err, errors.New("no connection came with the message"))
	}
	files, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(files) != 1 {
		return nil, errors.Join(err, errors.New("no connection came with the message"))
	}
	return fileConn(os.NewFile(uintptr(files[0]), "engine connection"))
}

// tell sends an event.
func (c *controlled) tell(e event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	return nil
}

// Write sends a record of the log, which is one call of a slog.JSONHandler.
func (c *controlled) Write(record []byte) (int, error) {
	if err := c.tell(event{Log: record}); err != nil {
		return 0, err
	}
	return len(record), nil
}

// relay logs a record of the child, which a slog.JSONHandler wrote, as this process's own.
func relay(log *slog.Logger, record json.RawMessage) {
	var fields map[string]any
	if err := json.Unmarshal(record, &fields); err != nil {
		log.Warn("cannot decode a log record of the ClickHouse engine", "line", string(record), "error", err)
		return
	}
	var level slog.Level
	name, _ := fields[slog.LevelKey].(string)
	if err := level.UnmarshalText([]byte(name)); err != nil {
		level = slog.LevelWarn
	}
	message, _ := fields[slog.MessageKey].(string)
	for _, key := range []string{slog.LevelKey, slog.MessageKey, slog.TimeKey} {
		delete(fields, key)
	}
	var attributes []slog.Attr
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		attributes = append(attributes, slog.Any(key, fields[key]))
	}
	log.LogAttrs(context.Background(), level, message, attributes...) //nolint:sloglint // the child's message
}
