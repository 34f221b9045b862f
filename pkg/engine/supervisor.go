package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/chdb"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const (
	// User is the one that has all rights, with the password in PasswordFile.
	User = "sendhouse"
	// PasswordFile is the name of the file in the data folder that holds the password.
	PasswordFile = "clickhouse-password"
	// folderName is the engine's folder in the data folder.
	folderName = "clickhouse"

	// startPatience is how long Start waits for the engine. What is started after it compares its logs with the rows, so it waits long.
	startPatience = time.Minute
	// pauseMin and pauseMax bound the pause before the engine is started again. It doubles each time, and is pauseMin after the engine was
	// up for steadyAfter.
	pauseMin    = 100 * time.Millisecond
	pauseMax    = 5 * time.Second
	steadyAfter = 10 * time.Second
	// endTimeout is how long the engine may take to end before it is killed: the connections and then the statements of chdb have their own
	// times within it.
	endTimeout = 25 * time.Second
	// loadTimeout bounds the question for metrics.
	loadTimeout = time.Second
	// eventBytesMax bounds a line of the child.
	eventBytesMax = 1 << 20
)

var (
	// ErrAway says that there is no engine at this moment.
	ErrAway = errors.New("the embedded ClickHouse is not running")
	// ErrAddress says that Config.Addr cannot be listened on.
	ErrAddress = errors.New("cannot listen for ClickHouse's HTTP interface")
)

// Dial connects to an engine, whatever the address.
type Dial func(ctx context.Context, addr string) (net.Conn, error)

// Config says where the engine runs. All fields but Registerer must be set.
type Config struct {
	// DataDir holds the engine's folder and the file with the password. It is made if it is missing.
	DataDir string
	// Addr is where the HTTP interface listens, as host:port. Without a password it may be read on a loopback address alone.
	Addr string
	// ReaderDatabase is the database that may be read without a password.
	ReaderDatabase string
	// Hosts are the names by which requests without a password may ask for the engine.
	Hosts      guard.Hosts
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Supervisor keeps an engine running. See the package's documentation.
type Supervisor struct {
	config   Config
	log      *slog.Logger
	settings settings
	addr     string
	listener *os.File
	restarts prometheus.Counter
	client   *http.Client // Over Dial.

	cancel  context.CancelFunc
	ended   chan struct{} // Closed when the supervision has ended.
	first   chan error    // Has what came of the first start.
	warned  bool
	waiting *away // While there is no engine. Only the supervision uses it.

	mu      sync.Mutex
	control *controller // nil: there is no engine, because of
	reason  error
}

// Start takes the address and starts the engine. It returns when the engine is ready, or cannot start now but could later: then it is tried
// again. An address that is taken and an installation that cannot work (no library, a data folder that is in use or not writable) are errors.
func Start(config Config) (*Supervisor, error) {
	folder := filepath.Join(config.DataDir, folderName)
	if err := chdb.MakeFolder(folder); err != nil {
		return nil, err
	}
	library, err := chdb.LibraryPath("")
	if err != nil {
		return nil, err
	}
	folder, err = filepath.Abs(folder)
	if err != nil {
		return nil, fmt.Errorf("find the data folder: %w", err)
	}
	password, err := loadPassword(filepath.Join(config.DataDir, PasswordFile), config.Logger)
	if err != nil {
		return nil, err
	}
	s := &Supervisor{
		config: config, log: config.Logger, ended: make(chan struct{}), first: make(chan error, 1), reason: errors.New("it is being started"),
		settings: settings{DataDir: folder, LibraryPath: library, User: User, Password: password, ReaderDatabase: config.ReaderDatabase, Hosts: config.Hosts},
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sendhouse_chdb_restarts_total", Help: "Times that the process of the embedded ClickHouse ended and was started again.",
		}),
	}
	s.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return s.Dial(ctx, addr) }, MaxIdleConns: 1,
	}}
	if err := s.listen(); err != nil {
		return nil, err
	}
	config.Registerer.MustRegister(s.restarts, chdb.NewCollector(s.load))
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.supervise(ctx)
	if err := s.awaitFirst(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Supervisor) listen() error {
	listener, err := net.Listen("tcp", s.config.Addr)
	if err != nil {
		return fmt.Errorf("%w on %s: %w", ErrAddress, s.config.Addr, err)
	}
	s.addr = listener.Addr().String()
	s.listener, err = listenerDuplicate(listener)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := listener.Close(); err != nil {
		return fmt.Errorf("%w on %s: %w", ErrAddress, s.config.Addr, err)
	}
	return s.goAway()
}

// awaitFirst waits for the first start.
func (s *Supervisor) awaitFirst() error {
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	select {
	case err := <-s.first:
		return err
	case <-timer.C:
		s.log.Warn("ClickHouse engine is still starting; starting everything else", "waited", startPatience)
		return nil
	}
}

// Addr is where the HTTP interface listens, as host:port.
func (s *Supervisor) Addr() string { return s.addr }

// Dial makes a connection to the engine that has the owner's rights, whatever the address. While there is no engine the error is ErrAway.
func (s *Supervisor) Dial(_ context.Context, _ string) (net.Conn, error) {
	s.mu.Lock()
	control, reason := s.control, s.reason
	s.mu.Unlock()
	if control == nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, reason)
	}
	return control.connect()
}

// Check is nil while the engine runs, and otherwise says why it does not. It is meant for lifecycle.Readiness.
func (s *Supervisor) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control != nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrAway, s.reason)
}

// Close lets the engine finish its statements, ends it and releases the address. It may be called more than once.
func (s *Supervisor) Close() error {
	s.cancel()
	<-s.ended
	s.client.CloseIdleConnections()
	if err := s.listener.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close ClickHouse's HTTP interface: %w", err)
	}
	return nil
}

func (s *Supervisor) load() (load chdb.Load, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+chdb.LoadPath, nil)
	if err != nil {
		return load, fmt.Errorf("ask the engine for its load: %w", err)
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return load, fmt.Errorf("ask the engine for its load: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if err := json.NewDecoder(answer.Body).Decode(&load); err != nil {
		return load, fmt.Errorf("ask the engine for its load: %w", err)
	}
	return load, nil
}

// supervise starts the engine, and again when it has ended, until ctx ends.
func (s *Supervisor) supervise(ctx context.Context) {
	defer close(s.ended)
	defer func() { s.waiting.close(s.log) }()
	backoff, ends := lifecycle.Backoff{Min: pauseMin, Max: pauseMax}, 0 // in a row
	for first := true; ; first = false {
		up, final, err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if first && final {
			s.tellFirst(err)
			<-ctx.Done()
			return
		}
		s.tellFirst(nil)
		if up >= steadyAfter {
			ends = 0
		}
		ends++
		pause := backoff.After(ends)
		s.restarts.Inc()
		s.log.Error("ClickHouse engine ended; starting it again, while rows wait in the message log", "error", err, "was_up", up.Round(time.Millisecond), "pause", pause)
		if lifecycle.Pause(ctx, pause) != nil {
			return
		}
	}
}

// once runs one engine from its start to its end, and returns how long it was up and why it ended. Final says that the child found a
// mistake of the installation.
func (s *Supervisor) once(ctx context.Context) (up time.Duration, final bool, err error) {
	child, err := s.spawn()
	if err != nil {
		s.setAway(err)
		return 0, false, err
	}
	stopEnding := context.AfterFunc(ctx, func() { s.end(child) })
	var ready time.Time
	failed := child.read(s.log, func() {
		ready = time.Now()
		s.setUp(child.control)
	})
	err = child.cmd.Wait()
	close(child.ended)
	_ = child.control.conn.Close() // Nothing more is written to it.
	if !ready.IsZero() {
		up = time.Since(ready)
	}
	switch {
	case failed != nil:
		err = errors.New(failed.Error)
	case err != nil:
		err = fmt.Errorf("its process ended: %w", err)
	default:
		err = errors.New("its process ended by itself")
	}
	if !stopEnding() { // It was asked to end.
		s.setAway(errors.New("it is being stopped"))
		if failed != nil {
			s.log.Error("ClickHouse engine ended with an error", "error", err)
		}
		return up, false, nil
	}
	s.setAway(err)
	return up, failed != nil && failed.Final, err
}

// end lets the child finish, and kills it when that takes too long. It returns at once; the timer does nothing to a process that has ended.
func (s *Supervisor) end(c *child) {
	if err := c.control.end(); err != nil {
		s.log.Debug("cannot ask the ClickHouse engine to end", "error", err)
		_ = c.cmd.Process.Kill() // An error says that it has ended.
		return
	}
	time.AfterFunc(endTimeout, func() {
		if c.cmd.Process.Kill() == nil {
			s.log.Error("ClickHouse engine did not end in time and was killed", "timeout", endTimeout)
		}
	})
}

// tellFirst says what came of the first start. Later calls have no effect.
func (s *Supervisor) tellFirst(err error) {
	select {
	case s.first <- err:
	default:
	}
}

func (s *Supervisor) setUp(control *controller) {
	s.waiting.close(s.log)
	s.mu.Lock()
	s.control = control
	s.mu.Unlock()
	s.tellFirst(nil)
}

func (s *Supervisor) setAway(reason error) {
	s.mu.Lock()
	was := s.control
	s.control, s.reason = nil, reason
	s.mu.Unlock()
	if was == nil {
		return
	}
	if err := s.goAway(); err != nil {
		s.log.Error("cannot answer clients while the ClickHouse engine is away; they wait until it is back", "error", err)
	}
}

func (s *Supervisor) goAway() (err error) {
	s.waiting, err = startAway(s.listener, s.log)
	return err
}

// child is a running process.
type child struct {
	cmd     *exec.Cmd
	control *controller
	ended   chan struct{} // Closed when the process has ended.
}

// spawn starts the process and sends it its settings.
func (s *Supervisor) spawn() (*child, error) {
	program, err := ownProgram()
	if err != nil {
		return nil, fmt.Errorf("find the program to start ClickHouse from: %w", err)
	}
	ours, theirs, err := socketPair("control")
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }() // The child has its own.
	conn, ok := ours.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("start ClickHouse: a pair of sockets is of type %T", ours)
	}
	c := &child{control: &controller{conn: conn}, ended: make(chan struct{})}
	c.cmd = exec.Command(program, Command) //nolint:noctx // end ends it
	c.cmd.Env = childEnvironment()
	c.cmd.Dir = s.settings.DataDir
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start ClickHouse: %w", err), ours.Close())
	}
	defer func() { _ = nothing.Close() }()
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = nothing, os.Stderr, os.Stderr
	c.cmd.ExtraFiles = []*os.File{theirs, s.listener}
	warning, err := start(c.cmd, s.settings.DataDir, s.settings.LibraryPath, c.ended)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a process for ClickHouse: %w", err), ours.Close())
	}
	if warning != nil && !s.warned {
		s.warned = true
		s.log.Warn("ClickHouse engine is not wholly confined; statements that reach files or networks are refused by grants alone", "reason", warning)
	}
	if err := c.control.sendSettings(s.settings); err != nil {
		_ = c.cmd.Process.Kill()
		err = errors.Join(err, c.cmd.Wait(), ours.Close())
		close(c.ended)
		return nil, err
	}
	return c, nil
}

// ownProgram is the file that this process runs, also when another one has been put in its place, as an update does.
func ownProgram() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err //nolint:wrapcheck // the caller's to say what for
	}
	const running = "/proc/self/exe" // There is none on systems other than Linux.
	ours, noProc := os.Stat(running)
	there, gone := os.Stat(path)
	if noProc == nil && (gone != nil || !os.SameFile(ours, there)) {
		path = running
	}
	return path, nil
}

// childEnvironment is what of this process's environment the child needs. The rest may hold secrets, which SQL could read.
func childEnvironment() []string {
	environment := []string{}
	for _, name := range []string{"TZ", "TZDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "GODEBUG", "GOTRACEBACK"} {
		if value, ok := os.LookupEnv(name); ok {
			environment = append(environment, name+"="+value)
		}
	}
	return environment
}

// read takes in what the child says until it has ended, and returns why it failed if it said so.
func (c *child) read(log *slog.Logger, ready func()) (failed *failure) {
	lines := bufio.NewReaderSize(c.control.conn, 64<<10)
	for {
		line, err := readLine(lines)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				log.Debug("reading from the ClickHouse engine", "error", err)
			}
			return failed
		}
		var said event
		if err := json.Unmarshal(line, &said); err != nil {
			log.Warn("cannot decode a message of the ClickHouse engine", "error", err)
			continue
		}
		switch {
		case said.Ready != nil:
			ready()
		case said.Failed != nil:
			failed = said.Failed
		case said.Log != nil:
			relay(log, said.Log)
		}
	}
}

// readLine reads a line of up to eventBytesMax bytes.
func readLine(lines *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		piece, err := lines.ReadSlice('\n')
		line = append(line, piece...)
		if len(line) > eventBytesMax {
			return nil, errors.New("a line is too long")
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err //nolint:wrapcheck // the caller's to judge
		}
	}
}

// listenerDuplicate is the listener's socket once more. It stays in the state that Go has it in, also when it is given to a child.
func listenerDuplicate(listener net.Listener) (*os.File, error) {
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("listener on %s is not one of TCP", listener.Addr())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use the listener on %s: %w", listener.Addr(), err)
	}
	var file *os.File
	var failed error
	err = raw.Control(func(fd uintptr) { file, failed = duplicate(fd) })
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("use the listener on %s: %w", listener.Addr(), err)
	}
	return file, nil
}
