package writer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	prometheustest "github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

func TestServerWritesAllPartitions(t *testing.T) {
	t.Parallel()
	b := setup(t, 3)
	server := enginetest.StartServer(t)
	cfg := b.config(server.DSN("test"))
	s := b.service(cfg)
	require.ErrorContains(t, s.Check(), "not started")
	stop := b.start(s)
	for p := range 3 {
		b.publish(p, 1, 500)
	}
	for p := range 3 {
		b.waitDone(p, 500)
	}
	require.NoError(t, s.Check())
	b.publish(1, 501, 510)
	b.waitDone(1, 510)
	require.NoError(t, stop())
	require.ErrorIs(t, s.Check(), errStopped)

	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 1510, rows)
	require.EqualValues(t, 1510, different)
}

// hooked tells when an insert begins.
type hooked struct {
	store
	begins func()
}

func (s *hooked) Insert(ctx context.Context, b *clickhouse.Block, first, end int, token string) error {
	s.begins()
	return s.store.Insert(ctx, b, first, end, token)
}

// The server is killed while an insert is under way, stays away for a while, and comes back; five times.
func TestServerKilledInMidInsert(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	server := enginetest.StartServer(t)
	cfg := b.config(server.DSN("test"))
	cfg.FlushRowsMax = 2000
	s := b.service(cfg)
	begun := make(chan struct{}, 1)
	s.store = &hooked{store: s.store, begins: func() {
		select {
		case begun <- struct{}{}:
		default:
		}
	}}
	stop := b.start(s)
	const burst = 6000
	for n := range 5 {
		b.publish(1, n*burst+1, (n+1)*burst)
		b.publish(0, n*burst+1, n*burst+burst-10)
		<-begun
		<-time.After(time.Duration(n) * 3 * time.Millisecond) // to hit different moments
		server.Kill9()
		b.publish(0, n*burst+burst-9, (n+1)*burst) // so that there is something to fail for, if all was inserted
		b.waitStatus(s, 0, stateRetrying)
		require.Error(t, s.Check())
		server.Start()
		b.waitDone(0, uint64(n+1)*burst)
		b.waitDone(1, uint64(n+1)*burst)
	}
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 2*5*burst, rows)
	require.EqualValues(t, 2*5*burst, different)
}

// A server that is stopped with its connections open is noticed, and waited for.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	server := enginetest.StartServer(t)
	cfg := b.config(server.DSN("test") + "?read_timeout=1s&dial_timeout=1s")
	s := b.service(cfg)
	stop := b.start(s)
	b.publish(0, 1, 100)
	b.waitDone(0, 100)
	server.Pause()
	b.publish(0, 101, 200)
	b.waitStatus(s, 0, stateRetrying)
	server.Resume()
	b.waitDone(0, 200)
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 200, rows)
	require.EqualValues(t, 200, different)
}

// pauseVariable makes TestServerStoppedInMidInsert stop the server for so long, with the default time-outs:
// WRITER_PAUSE=60s go test -run …
const pauseVariable = "WRITER_PAUSE"

// A server is paused in the middle of inserts and resumes later, with what it had been sent and what it is
// sent again.
func TestServerStoppedInMidInsert(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	server := enginetest.StartServer(t)
	cfg := b.config(server.DSN("test"))
	cfg.FlushRowsMax = 2000
	var pause time.Duration
	if text := os.Getenv(pauseVariable); text != "" {
		var err error
		pause, err = time.ParseDuration(text)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 3*pause+2*time.Minute)
		defer cancel()
		b.ctx = ctx
	} else {
		cfg.ClickHouseDSN += "?read_timeout=2s&dial_timeout=2s"
	}
	s := b.service(cfg)
	begun := make(chan struct{}, 1)
	s.store = &hooked{store: s.store, begins: func() {
		select {
		case begun <- struct{}{}:
		default:
		}
	}}
	stop := b.start(s)
	const burst = 10_000
	for n := range 2 {
		b.publish(1, n*burst+1, (n+1)*burst)
		b.publish(0, n*burst+1, n*burst+burst-10)
		<-begun
		<-time.After(time.Duration(n) * 2 * time.Millisecond) // to hit different moments
		server.Pause()
		b.publish(0, n*burst+burst-9, (n+1)*burst) // so that there is something to fail for, if all was inserted
		if pause > 0 {
			<-time.After(pause) // what is tried is the time itself
		} else {
			b.waitStatus(s, 0, stateRetrying)
		}
		server.Resume()
		b.waitDone(0, uint64(n+1)*burst)
		b.waitDone(1, uint64(n+1)*burst)
	}
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	rows, different := openTable(t, server.DSN("test")).counts()
	require.EqualValues(t, 2*2*burst, rows)
	require.EqualValues(t, 2*2*burst, different)
}

// While ClickHouse is unreachable, the writer stays within its memory limit and can be stopped at any time.
func TestServerAwayUnderLoad(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	server := enginetest.StartServer(t)
	cfg := b.config(server.DSN("test"))
	cfg.FlushRowsMax, cfg.WriterStopTimeout = 500, 50*time.Millisecond
	s := b.service(cfg)
	stop := b.start(s)
	b.publish(0, 1, 10)
	b.waitDone(0, 10)
	server.Kill9()
	b.publish(0, 11, 5000)
	b.waitStatus(s, 0, stateRetrying)
	require.ErrorContains(t, s.Check(), "partition 0: clickhouse: ") // it asks, or inserts
	require.NoError(t, stop())
	require.NotNil(t, b.recorded(0).Pending, "what was begun is left to the next start")

	server.Start()
	stop = b.start(b.service(cfg))
	b.waitDone(0, 5000)
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 5000, rows)
	require.EqualValues(t, 5000, different)
}

// NATS goes away in the middle and comes back on the same data.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	addr := testkit.FreeAddr(t)
	b := setupAt(t, 1, addr, filepath.Join(t.TempDir(), "nats"))
	cfg := b.full()
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	b.publish(0, 1, 100)
	b.waitDone(0, 100)

	b.nats.Shutdown()
	again, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: b.dir, Addr: addr, StoreBytesMax: 64 << 30, Logger: b.log})
	require.NoError(t, err)
	t.Cleanup(again.Shutdown)
	nc, js, err := broker.Connect(b.ctx, broker.Config{URL: again.URL(), Options: []nats.Option{again.Operator()}, Name: "again", Logger: b.log})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	b.js = js
	b.publish(0, 101, 200)
	b.waitDone(0, 200)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 200)
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	s := b.service(b.full())
	s.bucket = func(ctx context.Context) (bucket, error) { // the deployment was never set up
		_, err := b.js.KeyValue(ctx, "NO_SUCH_BUCKET")
		return nil, err
	}
	requireLine(t, s.Run(b.ctx), "bucket not found")

	s = b.service(b.full())
	require.NoError(t, b.start(s)())
	require.ErrorContains(t, s.Run(b.ctx), "only once")
}

// ClickHouse's state at the start does not end the writer: it says what is wrong, and writes when that is mended.
func TestStartWaitsForTheTable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil, mend []string // statements
		config      func(*Config)
		says        string
	}{
		"the table may not be made": {
			config: func(c *Config) { c.ClickHouseMigrate = false },
			says:   "the table does not exist",
		},
		"a column has another type": {
			spoil: []string{"ALTER TABLE messages MODIFY COLUMN red_dot UInt16"},
			mend:  []string{"ALTER TABLE messages MODIFY COLUMN red_dot UInt8"},
			says:  "column red_dot is UInt16, but must be UInt8 (run: ALTER TABLE",
		},
		"the ledger is of another schema": {
			spoil: []string{"INSERT INTO schema_migrations (version, name, checksum, applied_at) SELECT 999, 'foreign', 1, now()"},
			mend:  []string{"ALTER TABLE schema_migrations DELETE WHERE version = 999 SETTINGS mutations_sync = 2"},
			says:  "migration 0999 was applied",
		},
		"the table is gone": {
			spoil: []string{"DROP TABLE messages SYNC"}, // it is made again
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			client, err := clickhouse.Open(cfg.Config, b.log)
			require.NoError(t, err)
			defer func() { require.NoError(t, client.Close()) }()
			if c.config == nil {
				require.NoError(t, client.Migrate(b.ctx))
			} else {
				c.config(&cfg)
			}
			run := func(statements []string) {
				for _, statement := range statements {
					for _, table := range []string{" messages", " schema_migrations"} {
						statement = strings.Replace(statement, table, " "+client.Database()+"."+table[1:], 1)
					}
					require.NoError(t, client.Conn().Exec(b.ctx, statement))
				}
			}
			run(c.spoil)
			b.publish(0, 1, 10)
			s := b.service(cfg)
			ctx, stop := context.WithCancel(b.ctx)
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			if c.says != "" {
				testkit.WaitFor(t, time.Minute, "the writer says what is wrong", func(context.Context) error {
					if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.says) {
						return fmt.Errorf("it says %w", err)
					}
					return nil
				})
				require.InDelta(t, 1, prometheustest.ToFloat64(s.metrics.tableUnusable), 0)
			}
			if c.config != nil {
				require.NoError(t, client.Migrate(b.ctx))
			}
			run(c.mend)
			b.waitDone(0, 10)
			require.Zero(t, prometheustest.ToFloat64(s.metrics.tableUnusable))
			stop()
			require.NoError(t, <-ended)
			b.requireEachOnce(cfg, 10)
		})
	}
}

// A table that is changed by hand is reported while nothing is inserted, until it is mended.
func TestTableIsChangedWhileTheWriterRuns(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	client, err := clickhouse.Open(cfg.Config, b.log)
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	require.NoError(t, client.Migrate(b.ctx))
	s := b.service(cfg)
	s.timing.health = 50 * time.Millisecond
	ctx, stop := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.publish(0, 1, 10)
	b.waitDone(0, 10)
	for _, change := range [][3]string{
		{"DROP COLUMN tag_key", "column tag_key String is missing", "ADD COLUMN tag_key String"},
		{"MODIFY SETTING non_replicated_deduplication_window = 0", "non_replicated_deduplication_window", "MODIFY SETTING non_replicated_deduplication_window = 1000"},
	} {
		alter := func(how string) {
			require.NoError(t, client.Conn().Exec(b.ctx, "ALTER TABLE "+client.Database()+".messages "+how))
		}
		alter(change[0])
		testkit.WaitFor(t, time.Minute, "the writer says what is wrong", func(context.Context) error {
			if err := s.Check(); err == nil || !strings.Contains(err.Error(), change[1]) {
				return fmt.Errorf("it says %w", err)
			}
			return nil
		})
		require.InDelta(t, 1, prometheustest.ToFloat64(s.metrics.tableUnusable), 0)
		alter(change[2])
		testkit.WaitFor(t, time.Minute, "the writer sees that it is mended", func(context.Context) error { return s.Check() })
		require.Zero(t, prometheustest.ToFloat64(s.metrics.tableUnusable))
	}
	stop()
	require.NoError(t, <-ended)
}

// A ClickHouse that is not there, or says nothing, does not end the writer either, and stopping it takes no time.
func TestStartWaitsForClickHouse(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	s := b.service(b.config("clickhouse://" + testkit.FreeAddr(t) + "/x"))
	ctx, stop := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	testkit.WaitFor(t, time.Minute, "the writer says what is wrong", func(context.Context) error {
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), "is ClickHouse running, and --clickhouse-dsn right?") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	stop()
	require.NoError(t, <-ended)
}

func requireLine(t *testing.T, err error, parts ...string) {
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("want one line, have %v", err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("want %q in %v", part, err)
		}
	}
}

func TestNewReportsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	cfg := Config{FlushRowsMax: -1}
	cfg.ClickHouseDSN = "nowhere"
	_, err := New(cfg, Deps{Registerer: prometheus.NewRegistry()})
	for _, part := range []string{
		"--clickhouse-dsn", "--flush-rows-max", "--flush-bytes-max", "--flush-interval", "--writer-bytes-max", "--writer-inserts-max",
		"--writer-stop-timeout", "JetStream", "logger", "partitions",
	} {
		require.ErrorContains(t, err, part)
	}
}
