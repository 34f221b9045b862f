package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/engine"
)

// database is where the product's tables are in the embedded ClickHouse. Every client on this machine may read it.
const database = "sendhouse"

// StartClickHouse starts the embedded engine in a process of its own. It returns the DSN to reach it and how to connect with the owner's
// rights.
func (p *Process) StartClickHouse(dataDir, addr string) (string, engine.Dial, error) {
	supervisor, err := engine.Start(engine.Config{
		DataDir: dataDir, Addr: addr, ReaderDatabase: database, Logger: p.Log, Registerer: p.Registry,
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

// StartNATS starts the embedded server, whose data is in dir. Connect then goes there.
func (p *Process) StartNATS(dir, addr string) error {
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: dir, Addr: addr, Logger: p.Log})
	if err != nil {
		return err
	}
	p.embedded = server
	spareProcessor()
	spareCollections(p.Log)
	p.Registry.MustRegister(server.Collector())
	p.Own("nats", func() error { server.Shutdown(); return nil })
	return nil
}

// spareProcessor gives Go one processor more than there are cores. The embedded server syncs the write-ahead log hundreds
// of times a second, and a sync keeps the processor it was called on, though not the core, until the runtime takes it away.
// Whoever has set GOMAXPROCS is left alone.
func spareProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}
