package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

const (
	// Command is the argument with which the binary is the child. It must call Serve.
	Command = "engine"

	// The files that the child has from its parent.
	controlFile  = 3
	listenerFile = 4

	// filesMax is how many files the engine may have open, if this process may have as many.
	filesMax = 16384
	// connectionsMax is how many clients may be connected; tables need at least as many files.
	connectionsMax = 512
	// statementsTimeout is how long statements that run may continue after the parent has asked for the end.
	statementsTimeout = 8 * time.Second
)

// Serve is the child: it runs the engine until the parent wants an end. What goes wrong is the parent's to report.
func Serve() error {
	// A terminal and a service manager send their signals to this process too, while the parent still needs it. What kills the group
	// kills both.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM)
	conn, err := fileConn(os.NewFile(controlFile, "control"))
	if err != nil {
		return fmt.Errorf("sendhouse starts this command itself; it cannot be run by hand: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("sendhouse starts this command itself; it cannot be run by hand")
	}
	control := &controlled{conn: unixConn}
	given, err := control.readSettings()
	if err != nil {
		return err
	}
	handed := newHandoff()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	gone, ended := make(chan error, 1), make(chan error, 1)
	go func() { // Ends with the control connection, at the latest with the process.
		if err := control.serve(handed.give); err != nil {
			gone <- err
		}
		stop()
	}()
	go func() { ended <- serve(ctx, control, handed, given) }()
	select {
	case err := <-gone: // As if it all were one process that was killed: nothing is closed.
		return err
	case err := <-ended:
		if err == nil {
			return nil
		}
		final := errors.Is(err, chdb.ErrLibrary) || errors.Is(err, chdb.ErrLocked) || errors.Is(err, chdb.ErrUnwritable)
		return control.tell(event{Failed: &failure{Error: err.Error(), Final: final}})
	}
}

func serve(ctx context.Context, control *controlled, handed *handoff, given settings) (err error) {
	log := slog.New(slog.NewJSONHandler(control, &slog.HandlerOptions{Level: slog.LevelDebug}))
	files, err := limitFiles()
	if err != nil {
		log.Warn("cannot limit the number of files that ClickHouse may open", "error", err)
		files = filesMax
	}
	listener, err := net.FileListener(os.NewFile(listenerFile, "listener"))
	if err != nil {
		return fmt.Errorf("take over the listener: %w", err)
	}
	engine, err := chdb.Open(chdb.Config{
		DataDir: given.DataDir, LibraryPath: given.LibraryPath, User: given.User, Password: given.Password, ReaderDatabase: given.ReaderDatabase,
		Hosts:        given.Hosts,
		CloseTimeout: statementsTimeout, Logger: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	server, err := chdb.NewServer(chdb.ServerConfig{Listener: listener, Owner: handed, ConnectionsMax: min(connectionsMax, files/2)}, engine)
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // What only the start needed.
	if err := control.tell(event{Ready: new(struct{})}); err != nil {
		return err
	}
	return server.Run(ctx)
}

// limitFiles lowers the limit of this process to filesMax, and returns what it is then. The hard limit as well, since the engine raises
// the other to it.
func limitFiles() (files int, err error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("ask for the limit of open files: %w", err)
	}
	limit.Max = min(limit.Max, filesMax)
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("set the limit of open files to %d: %w", limit.Cur, err)
	}
	return int(limit.Cur), nil
}

// handoff is a listener for connections that are given to it.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff() *handoff { return &handoff{conns: make(chan net.Conn), done: make(chan struct{})} }

// give hands a connection over. After Close it is closed.
func (h *handoff) give(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		_ = conn.Close() // It was never used.
	}
}

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return &net.UnixAddr{Name: "parent", Net: "unix"} }

// duplicate is the file of fd once more, closed when another program is run.
func duplicate(fd uintptr) (*os.File, error) {
	other, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(other), "listener"), nil
}
