package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// SyncInterval is how often the embedded server brings to disk what is not
// synced before it is acknowledged: the message log. It is the horizon behind
// which the message log surely survives a power loss.
const SyncInterval = 10 * time.Second

// PayloadBytesMax is the largest message the embedded server takes. It leaves
// room for a send with the most subscribers.
const PayloadBytesMax = 8 << 20

const serverReadyTimeout = 8 * time.Second

// EmbeddedConfig sets up the NATS server inside this process.
type EmbeddedConfig struct {
	// DataDir is where JetStream keeps its files. One process at a time.
	DataDir string
	// Addr is the TCP address that other clients reach it by, host:port; port 0
	// picks a free one.
	Addr string
	// StoreBytesMax bounds JetStream's files; 0 means three quarters of the free
	// disk.
	StoreBytesMax int64
	Logger        *slog.Logger
}

// Embedded is a NATS server inside this process. If it cannot write to its files, Watch replaces it by another one on the same
// files and addresses, to which connections come back by themselves.
type Embedded struct {
	cfg  EmbeddedConfig // after the first start with the port and the size that it got
	url  string
	lock *os.File
	log  *slog.Logger

	life    sync.Mutex // held while a server starts or stops
	ended   bool       // by Shutdown
	server  atomic.Pointer[server.Server]
	problem atomic.Pointer[string] // why it does not serve as it should; nil if it does

	restarts atomic.Uint64
}

// StartEmbedded starts a server with JetStream that syncs every write to disk
// before it is acknowledged, and waits until it serves. A data folder in use or
// not writable, or a taken port, is an error that says so.
func StartEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	lock, err := lockDataDir(cfg.DataDir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	// Left by a process that was killed, it would lead elsewhere.
	if err := removeAddress(cfg.DataDir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	e := &Embedded{cfg: cfg, lock: lock, log: cfg.Logger.With("component", "nats-server")}
	if err := e.start(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	// A later server gets the same address and the same size: what the disk has free then may be little, and streams that do not fit
	// the size are not recovered.
	ns := e.server.Load()
	e.url = ns.ClientURL()
	if addr, ok := ns.Addr().(*net.TCPAddr); ok {
		host, _, _ := net.SplitHostPort(cfg.Addr) // start has split it before
		e.cfg.Addr = net.JoinHostPort(host, strconv.Itoa(addr.Port))
	}
	if config := ns.JetStreamConfig(); config != nil {
		e.cfg.StoreBytesMax = config.MaxStore
	}
	if err := os.WriteFile(filepath.Join(cfg.DataDir, addressFile), []byte(e.url), 0o640); err != nil {
		e.Shutdown()
		return nil, fmt.Errorf("write the address of the embedded NATS server: %w", err)
	}
	return e, nil
}

// start starts a server on the files.
func (e *Embedded) start() error {
	cfg := e.cfg
	host, portText, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return fmt.Errorf("NATS address %q: %w", cfg.Addr, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return fmt.Errorf("NATS address %q: bad port", cfg.Addr)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	if err := checkPortFree(cfg.Addr); err != nil {
		return err
	}
	if err := syncFiles(cfg.DataDir); err != nil {
		return fmt.Errorf("bring NATS's files to disk: %w", err)
	}
	ns, err := server.NewServer(&server.Options{
		ServerName:            "sendhouse-embedded",
		Host:                  host,
		Port:                  port,
		JetStream:             true,
		StoreDir:              cfg.DataDir,
		JetStreamMaxStore:     cfg.StoreBytesMax,
		SyncAlways:            true,
		SyncInterval:          SyncInterval,
		MaxPayload:            PayloadBytesMax,
		MaxPending:            256 << 20,
		StreamMaxBufferedMsgs: 100_000,
		StreamMaxBufferedSize: 256 << 20,
		NoSigs:                true,
		NoLog:                 true,
	})
	if err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	ns.SetLoggerV2(&serverLogger{log: e.log}, false, false, false)
	ns.Start()
	switch {
	case !ns.ReadyForConnections(serverReadyTimeout):
		err = fmt.Errorf("embedded NATS server on %s was not ready within %s; its log says why", cfg.Addr, serverReadyTimeout)
	case !ns.JetStreamEnabled():
		err = fmt.Errorf("embedded NATS server could not start JetStream in %s; its log says why", cfg.DataDir)
	}
	if err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return err
	}
	e.server.Store(ns)
	return nil
}

// stopServer stops the server, if there is one, and waits until its files are closed and on disk.
func (e *Embedded) stopServer() error {
	if ns := e.server.Swap(nil); ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
	if err := syncFiles(e.cfg.DataDir); err != nil {
		return fmt.Errorf("bring NATS's files to disk: %w", err)
	}
	return nil
}

// addressFile in the data folder says where its server listens, while the folder is locked.
const addressFile = "ADDRESS"

// RunningURL is where the server listens of the process that uses a data folder.
func RunningURL(dataDir string) (string, error) {
	url, err := os.ReadFile(filepath.Join(dataDir, addressFile))
	if err != nil {
		return "", fmt.Errorf("address of the NATS server that uses the folder: %w (give it with --nats-url)", err)
	}
	return string(url), nil
}

func removeAddress(dataDir string) error {
	err := os.Remove(filepath.Join(dataDir, addressFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the address of an earlier NATS server: %w", err)
	}
	return nil
}

// URL is the address that other clients reach the server by.
func (e *Embedded) URL() string { return e.url }

// InProcess makes a connection within the process instead of over TCP.
func (e *Embedded) InProcess() nats.Option { return nats.InProcessServer(e) }

// InProcessConn connects to the server that there is now; it implements nats.InProcessConnProvider.
func (e *Embedded) InProcessConn() (net.Conn, error) {
	ns := e.server.Load()
	if ns == nil {
		return nil, errors.New("the embedded NATS server is not running")
	}
	return ns.InProcessConn() //nolint:wrapcheck // the client says what it was doing
}

// Shutdown stops the server and waits until its files are closed. Clients must
// have drained before. It may be called more than once.
func (e *Embedded) Shutdown() {
	e.life.Lock()
	defer e.life.Unlock()
	if e.ended {
		return
	}
	e.ended = true
	if err := e.stopServer(); err != nil {
		e.log.Error("cannot bring NATS's files to disk", "error", err)
	}
	if err := removeAddress(e.cfg.DataDir); err != nil {
		e.log.Warn("the folder of NATS's data names a server that has ended", "error", err)
	}
	_ = e.lock.Close() // only releases the lock; nothing was written
}

// syncFiles brings to disk what an earlier process has written to a folder. The server itself syncs only blocks that it has
// written since its start, so without this a block of before a restart could be lost while a newer one is not
// (nats-server 2.15, filestore.go: needSync is not set for a recovered block).
func syncFiles(dir string) error { return eachFile(dir, (*os.File).Sync) }

// eachFile calls do for each file and folder in a folder, until one fails.
func eachFile(dir string, do func(*os.File) error) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err //nolint:wrapcheck // names the folder
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !(entry.IsDir() || entry.Type().IsRegular()) {
			return err
		}
		file, err := root.Open(path)
		if err != nil {
			return err //nolint:wrapcheck // names the file
		}
		return errors.Join(do(file), file.Close())
	})
}

// lockDataDir makes the folder and takes the lock that keeps a second process
// out: nats-server itself would let both write.
func lockDataDir(dir string, log *slog.Logger) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("NATS data folder: %w (choose another with --data-dir)", err)
	}
	lock, err := lifecycle.Lock(filepath.Join(dir, "LOCK"), lifecycle.LockWait, func(err error) {
		log.Info("NATS data folder is locked; waiting in case its holder is ending", "folder", dir, "error", err)
	})
	var locked *lifecycle.LockedError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("NATS data folder %s is in use: %w (stop that process, or choose another folder with --data-dir)", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("NATS data folder is not writable: %w (choose another with --data-dir)", err)
	}
	return lock, nil
}

// checkPortFree turns a taken port into an error at once; the server itself
// would log it and go on without a listener.
func checkPortFree(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for NATS clients: %w (choose another with --nats-addr)", err)
	}
	return l.Close()
}
