package writer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// forget replaces the table by one that has some of its rows and knows no tokens, as after a power cut.
func (b *bundle) forget(cfg Config, rows string) {
	b.t.Helper()
	tb := openTable(b.t, cfg.ClickHouseDSN)
	for _, statement := range []string{
		"CREATE TABLE " + tb.name + "_other AS " + tb.name,
		"SYSTEM STOP MERGES " + tb.name + "_other",
		"INSERT INTO " + tb.name + "_other SELECT * FROM " + tb.name + " WHERE " + rows,
		"EXCHANGE TABLES " + tb.name + " AND " + tb.name + "_other",
	} {
		require.NoError(b.t, tb.conn.Exec(b.ctx, statement))
	}
}

// adopt says that the table is the deployment's, as 'sendhouse repair table' does after an exchange.
func (b *bundle) adopt(cfg Config) {
	b.t.Helper()
	client, err := clickhouse.Open(cfg.Config, b.log)
	require.NoError(b.t, err)
	require.NoError(b.t, AdoptTable(b.ctx, b.js, client, b.deployment))
	require.NoError(b.t, client.Close())
}

// A writer that starts with a pending range asks the table what it has of it: all, none or some of the rows, with the token known or not.
func TestAPendingRangeIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(b *bundle, cfg Config){
		"all, and its token":  func(*bundle, Config) {},
		"all, and no token":   func(b *bundle, cfg Config) { b.forget(cfg, "1") },
		"some, and no token":  func(b *bundle, cfg Config) { b.forget(cfg, "partition_seq <= 200 OR partition_seq % 3 = 0") },
		"none, and no token":  func(b *bundle, cfg Config) { b.forget(cfg, "partition_seq <= 200") },
		"none, and its token": func(b *bundle, cfg Config) { b.deleteRows(cfg, "partition_seq > 200") },
		"some, and its token": func(b *bundle, cfg Config) { b.deleteRows(cfg, "partition_seq > 200 AND partition_seq % 3 = 0") },
		// A deployment that used the table before had other messages at these places.
		"rows of others": func(b *bundle, cfg Config) {
			b.forget(cfg, "partition_seq <= 200")
			tb := openTable(b.t, cfg.ClickHouseDSN)
			require.NoError(b.t, tb.conn.Exec(b.ctx, "INSERT INTO "+tb.name+" SELECT * REPLACE(partition_seq + 200 AS partition_seq, 'other' AS channel_id) FROM "+tb.name+" WHERE partition_seq <= 50"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			cfg.FlushRowsMax = 100
			b.publish(0, 1, 300)
			b.dieInInsert(cfg, true, 2)
			require.Equal(t, seqRange{201, 300}, b.recorded(0).Pending.seqRange)
			lose(b, cfg)
			b.adopt(cfg)
			s := b.service(cfg)
			s.timing.unsure = time.Nanosecond // the insert is over
			stop := b.start(s)
			b.waitDone(0, 300)
			b.publish(0, 301, 400)
			b.waitDone(0, 400)
			require.NoError(t, stop())
			var rows, different uint64
			tb := openTable(t, cfg.ClickHouseDSN)
			require.NoError(t, tb.conn.QueryRow(b.ctx, "SELECT count(), uniqExact(partition_seq) FROM "+tb.name+" WHERE channel_id != 'other'").Scan(&rows, &different))
			require.EqualValues(t, 400, different)
			require.EqualValues(t, 400, rows)
		})
	}
}

func (b *bundle) deleteRows(cfg Config, rows string) {
	b.t.Helper()
	tb := openTable(b.t, cfg.ClickHouseDSN)
	for _, statement := range []string{
		"SYSTEM START MERGES " + tb.name, // they stop mutations, too
		"ALTER TABLE " + tb.name + " DELETE WHERE " + rows + " SETTINGS mutations_sync = 2",
		"SYSTEM STOP MERGES " + tb.name,
	} {
		require.NoError(b.t, tb.conn.Exec(b.ctx, statement))
	}
}

// While an earlier insert may still bring in the rest of a range, nothing is inserted beside it.
func TestARangeThatIsThereInPartIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 100
	b.publish(0, 1, 100)
	b.dieInInsert(cfg, true, 0)
	b.forget(cfg, "partition_seq % 3 = 0")
	b.adopt(cfg)
	s := b.service(cfg)
	s.timing.unsure = time.Hour
	stop := b.start(s)
	require.ErrorIs(t, b.waitStatus(s, 0, stateRetrying).problem, errMayStillCome)
	tb := openTable(t, cfg.ClickHouseDSN)
	require.NoError(t, tb.conn.Exec(b.ctx, "INSERT INTO "+tb.name+" SELECT * FROM "+tb.name+"_other WHERE partition_seq % 3 != 0")) // it comes in
	b.waitDone(0, 100)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 100)
}

// A ClickHouse that loses power after it has taken a block, and its tokens with it, has the rows once, within a session of the writer too.
func TestTokensLostWithinASession(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 100
	s := b.service(cfg)
	f := newFaults(stepInsert, true, false, 1)
	f.strike = func(do func() error) error {
		require.NoError(t, do())
		b.forget(cfg, "1")
		return errFault
	}
	f.inject(s)
	stop := b.start(s)
	b.stopMerges(cfg)
	b.publish(0, 1, 500)
	b.waitDone(0, 500)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 500)
}

// The process is killed by kill -9 between an insert and the record of it, with a view that counts attached, and in half of the
// cases what ClickHouse does not sync is gone: its log of tokens. Table and view have each message once.
func TestEndToEndKilledWithACountingView(t *testing.T) {
	t.Parallel()
	for _, c := range []child{
		{Kill: stepInsert, Applied: true},
		{Kill: stepInsert, Applied: true, Skip: 2},
		{Kill: stepAdvance},
		{Kill: stepRecord, Applied: true, Skip: 1},
	} {
		for _, wiped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/applied=%t/skip=%d/wiped=%t", c.Kill, c.Applied, c.Skip, wiped), func(t *testing.T) {
				t.Parallel()
				b := setup(t, 1)
				dir, addr := t.TempDir(), testkit.FreeAddr(t)
				killed := b.newChild(dir, addr, c)
				killed.Start()
				tb := b.keepDuplicates(addr)
				for _, statement := range []string{
					"CREATE TABLE child.counts (channel_id String, n UInt64) ENGINE = SummingMergeTree ORDER BY channel_id SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 100000",
					"CREATE MATERIALIZED VIEW child.counting TO child.counts AS SELECT channel_id, 1 AS n FROM child.messages",
				} {
					require.NoError(t, tb.conn.Exec(b.ctx, statement))
				}
				last := b.publishUntil(killed.Done())
				if wiped {
					logs, err := filepath.Glob(filepath.Join(dir, "engine", "store", "*", "*", "deduplication_logs"))
					require.NoError(t, err)
					require.NotEmpty(t, logs)
					for _, log := range logs {
						require.NoError(t, os.RemoveAll(log))
					}
				}
				again := b.newChild(dir, addr, child{})
				again.Start()
				b.waitDone(0, last)
				tb = openTable(t, "http://"+addr+"/child")
				rows, different := tb.counts()
				require.Equal(t, last, different)
				require.Equal(t, last, rows)
				var counted uint64
				require.NoError(t, tb.conn.QueryRow(b.ctx, "SELECT sum(n) FROM child.counts").Scan(&counted))
				require.Equal(t, last, counted, "the view")
				require.Equal(t, 0, again.Stop())
			})
		}
	}
}

// A replica may be behind another one, so its tables are not asked: the token decides.
func TestReplicatedTablesAreNotAsked(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 100)
	b.dieInInsert(cfg, true, 0)
	s := b.service(cfg)
	asked := &refusingStore{store: s.store, unknown: 1 << 20}
	s.store = asked
	s.asks = func() bool { return false }
	stop := b.start(s)
	b.waitDone(0, 100)
	require.NoError(t, stop())
	require.Equal(t, 1<<20, asked.unknown)
	b.requireEachOnce(cfg, 100)
}

var _ store = (*clickhouse.Client)(nil)
