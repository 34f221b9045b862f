package broker

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

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

// embeddedName is what the embedded server calls itself to its clients.
const embeddedName = "sendhouse-embedded"

// EmbeddedConfig sets up the NATS server inside this process.
type EmbeddedConfig struct {
	// DataDir is where JetStream keeps its files. One process at a time.
	DataDir string
	// Addr is the TCP address that other clients reach it by, host:port; port 0
	// picks a free one.
	Addr string
	// StoreBytesMax bounds the sum of the streams' limits. 0 means three quarters of the free disk at the first start, so that limits
	// which the disk cannot hold are refused, and the whole file system later: what was accepted then is not refused because the
	// disk has filled up since.
	StoreBytesMax int64
	// ConnectionsMax bounds the connections of other clients; 0 means 1,024.
	ConnectionsMax int
	Logger         *slog.Logger
}

// Embedded is a NATS server inside this process. If it cannot write to its files, Watch replaces it by another one on the same
// files, to which connections come back by themselves.
type Embedded struct {
	cfg      EmbeddedConfig // after the first start with the size that it got
	lock     *os.File
	log      *slog.Logger
	operator nkeys.KeyPair
	public   string // half of the operator's key
	gate     *gate

	mu    sync.Mutex // held while a server starts or stops
	ended bool       // by Shutdown

	server  atomic.Pointer[server.Server]
	problem atomic.Pointer[string] // why it does not serve as it should; nil if it does

	restarts atomic.Uint64
}

// connectionsMaxDefault is how many other clients an embedded server takes by default.
const connectionsMaxDefault = 1024

// StartEmbedded starts a server with JetStream that syncs every write to disk
// before it is acknowledged, and waits until it serves. A data folder in use or
// not writable, or a taken port, is an error that says so.
//
// Clients over TCP without credentials may read: see ReaderSubjects. The operator, who may do everything, shows the NKey of OperatorFile.
func StartEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	lock, err := lockDataDir(cfg.DataDir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	e := &Embedded{cfg: cfg, lock: lock, log: cfg.Logger.With("component", "nats-server")}
	if err := e.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return e, nil
}

// open starts what there is, in the data folder that is locked.
func (e *Embedded) open() error {
	// Left by a process that was killed, it would lead elsewhere.
	if err := removeAddress(e.cfg.DataDir); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", e.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen for NATS clients: %w (choose another with --nats-addr)", err)
	}
	e.operator, err = openOperator(e.cfg.DataDir)
	if err == nil {
		e.public, err = e.operator.PublicKey()
	}
	if err == nil {
		err = e.startServerLocked() // no other goroutine has e yet
	}
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	// A later server gets the same size: what the disk has free then may be little, and streams that do not fit the size are not recovered.
	if config := e.server.Load().JetStreamConfig(); config != nil {
		e.cfg.StoreBytesMax = config.MaxStore
	}
	e.gate = newGate(listener, e.InProcessConn, e.public, cmp.Or(e.cfg.ConnectionsMax, connectionsMaxDefault), e.log)
	e.gate.start()
	if err := os.WriteFile(filepath.Join(e.cfg.DataDir, addressFile), []byte(e.URL()), 0o640); err != nil {
		e.Shutdown()
		return fmt.Errorf("write the address of the embedded NATS server: %w", err)
	}
	return nil
}

// startServerLocked starts the server, which does not listen itself: see gate.
func (e *Embedded) startServerLocked() error {
	cfg := e.cfg
	if err := syncFiles(cfg.DataDir); err != nil {
		return fmt.Errorf("bring NATS's files to disk: %w", err)
	}
	storeBytesMax, err := storeBytesMax(cfg)
	if err != nil {
		return err
	}
	anyone, err := nkeys.CreateUser() // whose key no client knows: the server takes clients without one for its owner
	if err != nil {
		return fmt.Errorf("key of the readers: %w", err)
	}
	reader, err := anyone.PublicKey()
	if err != nil {
		return fmt.Errorf("key of the readers: %w", err)
	}
	ns, err := server.NewServer(&server.Options{
		ServerName:            embeddedName,
		DontListen:            true,
		NoAuthUser:            reader,
		Nkeys:                 []*server.NkeyUser{{Nkey: e.public}, {Nkey: reader, Permissions: newReader().permissions()}},
		JetStream:             true,
		StoreDir:              cfg.DataDir,
		JetStreamMaxStore:     storeBytesMax,
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
		err = fmt.Errorf("embedded NATS server was not ready within %s; its log says why", serverReadyTimeout)
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

// storeBytesMax is what StoreBytesMax says; 0 leaves it to the server.
func storeBytesMax(cfg EmbeddedConfig) (int64, error) {
	if cfg.StoreBytesMax != 0 {
		return cfg.StoreBytesMax, nil
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, server.JetStreamStoreDir)); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("look for NATS's files: %w", err)
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(cfg.DataDir, &disk); err != nil {
		return 0, fmt.Errorf("ask for the size of the disk of %s: %w", cfg.DataDir, err)
	}
	return int64(disk.Blocks) * int64(disk.Bsize), nil //nolint:unconvert // of another type on macOS
}

// stopServerLocked stops the server, if there is one, and waits until its files are closed and on disk.
func (e *Embedded) stopServerLocked() error {
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
func (e *Embedded) URL() string { return "nats://" + e.gate.listener.Addr().String() }

// InProcess makes a connection within the process instead of over TCP, as the operator.
func (e *Embedded) InProcess() nats.Option {
	return func(o *nats.Options) error {
		return errors.Join(nats.InProcessServer(e)(o), e.Operator()(o))
	}
}

// InProcessConn connects to the server that there is now; it implements nats.InProcessConnProvider.
func (e *Embedded) InProcessConn() (net.Conn, error) {
	ns := e.server.Load()
	if ns == nil {
		return nil, errors.New("the embedded NATS server is not running")
	}
	return ns.InProcessConn() //nolint:wrapcheck // the client says what it was doing
}

// Operator makes a connection the operator's.
func (e *Embedded) Operator() nats.Option { return nats.Nkey(e.public, e.operator.Sign) }

// Shutdown stops the server and waits until its files are closed. Clients must
// have drained before. It may be called more than once.
func (e *Embedded) Shutdown() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	e.ended = true
	if e.gate != nil {
		e.gate.close()
	}
	if err := e.stopServerLocked(); err != nil {
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
