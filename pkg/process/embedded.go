package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/chdb"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// enginePauseMin and enginePauseMax bound the pauses between attempts to open an engine that did not start; they double.
const (
	enginePauseMin = 5 * time.Second
	enginePauseMax = time.Minute
)

// StartClickHouse opens the embedded engine behind its HTTP interface, which serves at once, and returns the DSN to reach it. An engine that does
// not start on its data, because that is damaged say, is no error: the process is not ready and says why, and tries to open
// it again until it is mended. Ingest does not depend on it.
func (p *Process) StartClickHouse(dir, addr string) (string, error) {
	cfg := chdb.Config{DataDir: dir, Logger: p.Log, Hosts: p.Hosts}
	engine, err := chdb.Open(cfg)
	if errors.Is(err, chdb.ErrStart) {
		p.reopen(cfg, addr, err)
		return dsnOf(addr), nil
	}
	if err != nil {
		return "", err
	}
	p.Registry.MustRegister(engine.Collector())
	p.Own("clickhouse", engine.Close)
	server, err := p.newInterface(addr, engine)
	if err != nil {
		return "", err
	}
	p.opens(server.Close)
	server.Start()
	p.Group.Add("clickhouse interface", server)
	return dsnOf(server.Addr()), nil
}

func dsnOf(addr string) string { return "http://" + addr + "/sendhouse?compress=none" }

func (p *Process) newInterface(addr string, engine *chdb.Engine) (*chdb.Server, error) {
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: addr, ConnectionsMax: p.connections("the embedded ClickHouse", shareClickHouse, clickHouseConnectionsMax)}, engine)
	if err != nil {
		return nil, fmt.Errorf("%w (choose another address with --clickhouse-addr)", err)
	}
	return server, nil
}

// reopen makes a service of the attempts to open an engine that did not start.
func (p *Process) reopen(cfg chdb.Config, addr string, cause error) {
	var problem atomic.Pointer[error]
	problem.Store(&cause)
	p.Readiness.Register("clickhouse engine", func() error { return *problem.Load() })
	p.Log.Error("ClickHouse engine did not start; sends are taken all the same; retrying", "error", cause)
	p.Group.Add("clickhouse", lifecycle.Func(func(ctx context.Context) error {
		for pause := enginePauseMin; ; pause = min(2*pause, enginePauseMax) {
			if err := lifecycle.Pause(ctx, pause); err != nil {
				return err
			}
			engine, err := chdb.Open(cfg)
			if err != nil {
				problem.Store(&err)
				continue
			}
			p.Registry.MustRegister(engine.Collector())
			var none error
			problem.Store(&none)
			server, err := p.newInterface(addr, engine)
			if err == nil {
				err = server.Run(ctx)
			}
			return errors.Join(err, engine.Close())
		}
	}))
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

// spareProcessor gives Go one processor more than there are cores. The embedded server syncs the write-ahead log hundreds
// of times a second, and a sync keeps the processor it was called on, though not the core, until the runtime takes it away.
// Whoever has set GOMAXPROCS is left alone.
func spareProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}
