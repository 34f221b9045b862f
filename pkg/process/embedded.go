package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/engine"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// database is where the product's tables are in the embedded ClickHouse. Every client on this machine may read it.
const database = "sendhouse"

// StartClickHouse starts the embedded engine in a process of its own. It returns the DSN to reach it and how to connect with the owner's
// rights.
func (p *Process) StartClickHouse(dataDir, addr string) (string, engine.Dial, error) {
	supervisor, err := engine.Start(engine.Config{
		DataDir: dataDir, Addr: addr, ReaderDatabase: database, Hosts: p.Hosts, Logger: p.Log, Registerer: p.Registry,
	})
	if errors.Is(err, engine.ErrAddress) {
		return "", nil, fmt.Errorf("%w (choose another address with --clickhouse-addr)", err)
	}
	if err != nil {
		return "", nil, err
	}
	p.Own("clickhouse", supervisor.Close)
	p.Readiness.Register("clickhouse", supervisor.Check)
	return "http://" + supervisor.Addr() + "/" + database + "?compress=none", supervisor.Dial, nil
}

// StartNATS starts the embedded server on its part of a data folder. Connect then goes there.
func (p *Process) StartNATS(dataDir, addr string) error {
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{
		DataDir: natsDir(dataDir), Addr: addr, ConnectionsMax: p.connections("the embedded NATS", shareNATS, natsConnectionsMax), Logger: p.Log,
	})
	if err != nil {
		return err
	}
	p.embedded = server
	spareProcessor()
	spareCollections(p.Log)
	p.Registry.MustRegister(server.Collector())
	p.Own("nats", func() error { server.Shutdown(); return nil })
	p.Readiness.Register("embedded nats", server.Check)
	p.Group.Add("nats storage watch", lifecycle.Func(server.Watch))
	return nil
}

// OpenNATS makes the NATS of a data folder of `up` reachable by the returned URL, until closing is called. If no process uses the folder, its
// server is started; else it is the one of the process that does.
func (p *Process) OpenNATS(dataDir string) (url string, closing func(), err error) {
	dir := natsDir(dataDir)
	if _, err := os.Stat(filepath.Join(dir, "jetstream")); err != nil {
		return "", nil, fmt.Errorf("data folder of NATS: %w (--data-dir is that of 'sendhouse up')", err)
	}
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: dir, Addr: "127.0.0.1:0", Logger: p.Log})
	var locked *lifecycle.LockedError
	switch {
	case errors.As(err, &locked):
		url, err = broker.RunningURL(dir)
		return url, func() {}, err
	case err != nil:
		return "", nil, err
	}
	return server.URL(), server.Shutdown, nil
}

// natsDir is where the embedded server has its data in a data folder.
func natsDir(dataDir string) string { return filepath.Join(dataDir, broker.EmbeddedFolder) }

// spareProcessor lets Go use one processor more than there are cores. The embedded server syncs the write-ahead log hundreds
// of times a second, and a sync keeps the processor it was called on, though not the core, until the runtime takes it away.
// If GOMAXPROCS is set, nothing is changed.
func spareProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}

// RefusedStart is the error with which an `up` ends that embeds NATS, with its data in a folder. The repairs that it names must start
// that NATS, so it adds the folder to them.
func RefusedStart(err error, dataDir string) error { return &refusedStartError{err, dataDir} }

type refusedStartError struct {
	error
	dataDir string
}

var namedRepair = regexp.MustCompile(`sendhouse repair [a-z-]+`)

// Error adds the data folder to the repairs that are named.
func (e *refusedStartError) Error() string {
	dir, err := filepath.Abs(e.dataDir)
	if err != nil {
		dir = e.dataDir // works in the same folder
	}
	if strings.ContainsFunc(dir, func(r rune) bool { return r == ' ' || r == '\'' }) {
		dir = "'" + strings.ReplaceAll(dir, "'", `'\''`) + "'"
	}
	return namedRepair.ReplaceAllStringFunc(e.error.Error(), func(repair string) string { return repair + " --data-dir " + dir })
}

// Unwrap returns the error itself.
func (e *refusedStartError) Unwrap() error { return e.error }
