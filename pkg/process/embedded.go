package process

import (
	"fmt"
	"os"
	"runtime"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/chdb"
)

// StartClickHouse opens the embedded engine behind its HTTP interface, which serves at once, and
// returns the DSN to reach it.
func (p *Process) StartClickHouse(dir, addr string) (string, error) {
	engine, err := chdb.Open(chdb.Config{DataDir: dir, Logger: p.Log})
	if err != nil {
		return "", err
	}
	p.Registry.MustRegister(engine.Collector())
	p.Own("clickhouse", engine.Close)
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: addr}, engine)
	if err != nil {
		return "", fmt.Errorf("%w (choose another address with --clickhouse-addr)", err)
	}
	p.opens(server.Close)
	server.Start()
	p.Group.Add("clickhouse interface", server)
	return "http://" + server.Addr() + "/sendhouse?compress=none", nil
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
