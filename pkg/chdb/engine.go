package chdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// Errors of Open and Close. Each comes wrapped in one line that says what to do.
var (
	// ErrLibrary says that libchdb is missing, damaged, or not the version that is wanted.
	ErrLibrary = errors.New("the ClickHouse library cannot be used")
	// ErrLocked says that another process holds the data folder.
	ErrLocked = errors.New("the ClickHouse data folder is in use")
	// ErrUnwritable says that the data folder cannot be made or written.
	ErrUnwritable = errors.New("the ClickHouse data folder cannot be written")
	// ErrAlreadyOpen says that this process has an engine already. The engine keeps its state in variables of the process.
	ErrAlreadyOpen = errors.New("this process has an open ClickHouse engine; close it first")
	// ErrStart says that the engine itself refused to start; it writes why to standard error.
	ErrStart = errors.New("the ClickHouse engine did not start")
	// ErrBusy says that statements were still running when Close gave up. The engine stays open until the process ends.
	ErrBusy = errors.New("ClickHouse statements did not end in time")
)

// processEngine is set while this process has an engine. It is a variable of the package because what it guards is one of the process:
// libchdb has one server in it, for the whole process.
var processEngine atomic.Bool //nolint:gochecknoglobals // As said above.

// Engine is a running ClickHouse. Its methods may be called from many goroutines at once.
type Engine struct {
	config    Config
	log       *slog.Logger
	lib       *binding
	folder    *folder
	arguments []string
	defaults  settings
	version   string
	timezone  string

	readable bool // Clients may read without a password.

	knownHosts, anyHost *guard.Guard // See guards.

	anchor *connection // Keeps the engine alive between statements.

	queries  *limiter
	inserts  *limiter
	readers  *limiter     // Statements of clients without a password.
	spooled  atomic.Int64 // Bytes of inserts on disk.
	finished atomic.Int64 // Statements that have ended, for the maintenance to see whether there was any.

	ending        context.Context // Is done when Close has waited long enough for the statements that run.
	endStatements context.CancelFunc

	faults lifecycle.Repeated // Of statements, in the log.

	mu         sync.Mutex
	closing    bool
	statements sync.WaitGroup // Those that run or wait for their turn.

	quit       chan struct{} // Closed for the maintenance to end.
	background sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

// Open starts the engine on config.DataDir. It returns when tables are loaded and queries can run. Errors are of one line; see ErrLibrary,
// ErrLocked, ErrUnwritable, ErrAlreadyOpen and ErrStart.
func Open(config Config) (*Engine, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	path, err := LibraryPath(config.LibraryPath)
	if err != nil {
		return nil, err
	}
	if !processEngine.CompareAndSwap(false, true) {
		return nil, ErrAlreadyOpen
	}
	engine, err := open(config, path)
	if err != nil {
		processEngine.Store(false)
		return nil, err
	}
	return engine, nil
}

func open(config Config, libraryPath string) (*Engine, error) {
	held, err := openFolder(config.DataDir, config.Logger)
	if err != nil {
		return nil, err
	}
	engine, err := start(config, libraryPath, held)
	if err != nil {
		return nil, errors.Join(err, held.release())
	}
	return engine, nil
}

func start(config Config, libraryPath string, held *folder) (*Engine, error) {
	for path, text := range map[string]string{held.configPath: config.serverXML(held.usersPath), held.usersPath: config.usersXML()} {
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			return nil, folderError(config.DataDir, err)
		}
	}
	knownHosts, anyHost, err := config.guards()
	if err != nil {
		return nil, err
	}
	lib, err := load(libraryPath)
	if err != nil {
		return nil, err
	}
	engine := &Engine{
		config: config, log: config.Logger, lib: lib, folder: held, defaults: config.querySettings(),
		arguments:  []string{"--path=" + held.enginePath, "--config-file=" + held.configPath},
		queries:    newLimiter(config.QueriesMax, config.QueueTimeout),
		inserts:    newLimiter(config.InsertsMax, config.QueueTimeout),
		knownHosts: knownHosts, anyHost: anyHost,
		readers: newLimiter(max(1, config.QueriesMax/readerShare), config.QueueTimeout),
		quit:    make(chan struct{}),
	}
	engine.ending, engine.endStatements = context.WithCancel(context.Background())
	if err := engine.bringUp(); err != nil {
		engine.endStatements()
		return nil, fmt.Errorf("%w on %s: %w", ErrStart, config.DataDir, err)
	}
	engine.background.Go(func() { engine.maintain(engine.quit) })
	engine.log.Info("ClickHouse engine is open", "version", engine.version, "data_dir", config.DataDir, "timezone", engine.timezone)
	return engine, nil
}

// bringUp starts the engine itself and tries what it must do.
func (e *Engine) bringUp() (err error) {
	if e.anchor, err = e.lib.startEngine(e.arguments); err != nil {
		return fmt.Errorf("%w; what it wrote to standard error says why", err)
	}
	if err = e.introduce(); err != nil {
		e.anchor.close()
		return err
	}
	if e.config.ReaderDatabase != "" {
		if err := e.proveReaders(); err != nil {
			e.log.Error("ClickHouse accepts statements that a reader must not run; refusing reads without the password", "error", err)
		} else {
			e.readable = true
		}
	}
	return nil
}

// introduce asks the engine who it is, which also shows that it answers, and tries the default settings, which an operator may have given.
func (e *Engine) introduce() error {
	if err := e.anchor.run(e.defaults.sql()); err != nil {
		return fmt.Errorf("apply the default settings: %w", err)
	}
	res, err := e.anchor.exec("SELECT version(), timezone()", "TSVRaw")
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	defer res.free()
	version, timezone, ok := strings.Cut(strings.TrimSuffix(string(res.data()), "\n"), "\t")
	if !ok {
		return fmt.Errorf("ask for the version: got %q", res.data())
	}
	e.version, e.timezone = version, timezone
	return nil
}

// Version is ClickHouse's own version, such as "26.5.1.1".
func (e *Engine) Version() string { return e.version }

// Timezone is the IANA name of the time zone in which times without one are read and written: that of the machine.
func (e *Engine) Timezone() string { return e.timezone }

// Ping runs the smallest query, past the limits: an engine with much to do still answers. Its error is an *Exception.
func (e *Engine) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.enter(); err != nil {
		return err
	}
	defer e.statements.Done()
	return e.command("SELECT 1")
}

// Exec runs one statement and throws its output away. Its error is an *Exception, or that of ctx.
func (e *Engine) Exec(ctx context.Context, sql string) error {
	parsed, err := parseStatement([]byte(sql))
	if err != nil {
		return err
	}
	if parsed.kind == kindInsertData {
		_, err := e.insert(ctx, request{}, parsed, strings.NewReader(sql[parsed.dataAt:]))
		return err
	}
	_, err = e.query(ctx, request{format: "Null"}, parsed, discard)
	return err
}

// enter counts a statement in, unless the engine is closing. The caller owes e.statements.Done.
func (e *Engine) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return &Exception{Code: codeAborted, Message: "The engine is closing. (ABORTED)"}
	}
	e.statements.Add(1)
	return nil
}

// Close refuses new statements, waits up to CloseTimeout for those that run, ends those that then still run, closes the engine and releases
// the data folder. It may be called more than once and from more than one goroutine; each call returns when the engine is closed.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() { e.closeErr = e.close() })
	return e.closeErr
}

func (e *Engine) close() error {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()

	idle := e.waitIdle()
	e.endStatements()
	close(e.quit)
	e.background.Wait()
	if !idle {
		return fmt.Errorf("close the ClickHouse engine on %s: %w", e.config.DataDir, ErrBusy)
	}
	e.anchor.close()
	err := e.folder.release()
	processEngine.Store(false)
	e.log.Info("ClickHouse engine is closed", "data_dir", e.config.DataDir)
	return err
}
