package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/chdb"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// childVariable makes the test program be a process with an engine and a writer in it, instead of running
// tests: for what only a process of its own can have, such as an end by kill -9. It holds a child's settings.
const childVariable = "SENDHOUSE_WRITER_TEST_CHILD"

// child says what such a process does.
type child struct {
	Config  Config
	NATS    string
	Key     string // file of the operator's key of that
	DataDir string // of the engine
	Addr    string // of the engine

	// Kill is the step at which the child kills itself, empty for none: before the step, after it if Applied, or, if
	// During is not 0, that long after its start.
	Kill    step
	Applied bool
	During  time.Duration
	Skip    int32 // steps of this kind that go well before
}

// runChild plays the part and returns the exit status.
func runChild(text string) int {
	var c child
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = c.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (c *child) run(ctx context.Context) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	engine, err := chdb.Open(chdb.Config{DataDir: c.DataDir, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: c.Addr}, engine)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(serving) }()
	defer func() {
		stop()
		err = errors.Join(err, <-served)
	}()
	operator, err := nats.NkeyOptionFromSeed(c.Key)
	if err != nil {
		return err
	}
	nc, js, err := broker.Connect(ctx, broker.Config{URL: c.NATS, Options: []nats.Option{operator}, Name: "child", Logger: log})
	if err != nil {
		return err
	}
	defer nc.Close()
	s, err := New(c.Config, Deps{JetStream: js, Partitions: 1, Instance: "child", Logger: log, Registerer: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	if c.Kill != "" {
		f := newFaults(c.Kill, c.Applied, true, c.Skip)
		f.strike = c.strike
		f.inject(s)
	}
	return s.Run(ctx)
}

// strike ends the process at once, as kill -9 does.
func (c *child) strike(do func() error) error {
	switch {
	case c.During > 0:
		go func() {
			_ = do() // the test has ended, so ignore the error
		}()
		<-time.After(c.During)
	case c.Applied:
		if err := do(); err != nil {
			return err
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return err
	}
	select {}
}

// newChild prepares a child on a data folder; kills says at which step it dies.
func (b *bundle) newChild(dataDir, addr string, kills child) *testkit.Process {
	b.t.Helper()
	kills.Config = b.config("http://" + addr + "/child")
	kills.Config.FlushRowsMax = 100
	kills.NATS, kills.DataDir, kills.Addr = b.nats.URL(), dataDir, addr
	kills.Key = filepath.Join(b.dir, filepath.Base(broker.OperatorFile("")))
	text, err := json.Marshal(kills)
	require.NoError(b.t, err)
	self, err := os.Executable()
	require.NoError(b.t, err)
	return testkit.NewProcess(b.t, testkit.ProcessConfig{
		Name: "writer", Path: self, Env: []string{childVariable + "=" + string(text)},
		Ready: func(ctx context.Context) error { return tableThere(ctx, addr) },
	})
}

// tableThere is nil when a child has made its table.
func tableThere(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/?query=SELECT+count()+FROM+child.messages", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// keepDuplicates turns merges off, for good, since they would hide what was inserted twice.
func (b *bundle) keepDuplicates(addr string) *table {
	b.t.Helper()
	tb := openTable(b.t, "http://"+addr+"/child")
	require.NoError(b.t, tb.conn.Exec(b.ctx, "ALTER TABLE "+tb.name+" MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, "+
		"max_bytes_to_merge_at_min_space_in_pool = 1, parts_to_delay_insert = 100000, parts_to_throw_insert = 100000"))
	return tb
}

// A process with the embedded engine and the writer in it is killed by kill -9 at each step of a batch. The
// next one continues, and the table holds each message once, without FINAL.
func TestEndToEndKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, c := range []child{
		{Kill: stepRecord},
		{Kill: stepRecord, Skip: 3},
		{Kill: stepRecord, Applied: true},
		{Kill: stepRecord, Applied: true, Skip: 3},
		{Kill: stepInsert, During: 200 * time.Microsecond, Skip: 1},
		{Kill: stepInsert, During: 2 * time.Millisecond},
		{Kill: stepInsert, During: 5 * time.Millisecond, Skip: 1},
		{Kill: stepInsert, During: 10 * time.Millisecond, Skip: 2},
		{Kill: stepInsert, During: 20 * time.Millisecond, Skip: 3},
		{Kill: stepInsert, Applied: true},
		{Kill: stepInsert, Applied: true, Skip: 3},
		{Kill: stepAdvance},
		{Kill: stepAdvance, Applied: true},
	} {
		t.Run(fmt.Sprintf("%s/applied=%t/during=%s/skip=%d", c.Kill, c.Applied, c.During, c.Skip), func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			dir, addr := t.TempDir(), testkit.FreeAddr(t)
			killed := b.newChild(dir, addr, c)
			killed.Start()
			b.keepDuplicates(addr)
			last := b.publishUntil(killed.Done())
			again := b.newChild(dir, addr, child{})
			again.Start()
			b.waitDone(0, last)
			rows, different := openTable(t, "http://"+addr+"/child").counts()
			require.Equal(t, last, different)
			require.Equal(t, last, rows)
			require.Equal(t, 0, again.Stop())
		})
	}
}
