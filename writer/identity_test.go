package writer

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const identityPatience = 30 * time.Second

// writeAll writes what the log has with a writer that ends then.
func (b *bundle) writeAll(cfg Config, last uint64) {
	b.t.Helper()
	stop := b.start(b.service(cfg))
	b.waitDone(0, last)
	require.NoError(b.t, stop())
}

// awaitPaused waits until a writer has paused partition 0, and returns why.
func (b *bundle) awaitPaused(s *Service) string {
	b.t.Helper()
	var said string
	testkit.WaitFor(b.t, identityPatience, "the partition to be paused", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r := s.runners[0]; r == nil || r.status.Load().state != statePaused {
			return errors.New("not yet")
		}
		said = s.runners[0].status.Load().problem.Error()
		return nil
	})
	require.ErrorContains(b.t, s.Check(), said, "readiness says so")
	return said
}

// requirePaused runs a writer, which must refuse, and returns why.
func (b *bundle) requirePaused(cfg Config) string {
	b.t.Helper()
	s := b.service(cfg)
	stop := b.start(s)
	said := b.awaitPaused(s)
	require.NoError(b.t, stop())
	return said
}

func (b *bundle) client(cfg Config) *clickhouse.Client {
	b.t.Helper()
	client, err := clickhouse.Open(cfg.Config, slog.New(slog.DiscardHandler))
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = client.Close() })
	return client
}

// forgetTable makes the position one of a version that recorded no table.
func (b *bundle) forgetTable() {
	b.t.Helper()
	at := b.recorded(0)
	at.Table = nil
	value, err := json.Marshal(at)
	require.NoError(b.t, err)
	kv, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(b.t, err)
	_, err = kv.Put(b.ctx, positionKey(0), value)
	require.NoError(b.t, err)
}

func TestAWriterWithAnotherTableIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	first, second := b.full(), b.elsewhere()
	b.publish(0, 1, 20)
	b.writeAll(first, 20)
	one := *b.recorded(0).Table
	require.NotEmpty(t, one.UUID)
	b.publish(0, 21, 30)

	said := b.requirePaused(second)
	require.Contains(t, said, one.String())
	require.Contains(t, said, b.client(second).Database())
	require.Contains(t, said, "sendhouse repair table")
	require.EqualValues(t, 20, b.recorded(0).Done)
	b.writeAll(first, 30)

	// With roles apart, and the right one still at work.
	s := b.service(first)
	stop := b.start(s)
	require.NoError(t, AdoptTable(b.ctx, b.js, b.client(second), b.deployment))
	require.NoError(t, AdoptTable(b.ctx, b.js, b.client(second), b.deployment), "twice is as good as once")
	b.publish(0, 31, 31)
	require.Contains(t, b.awaitPaused(s), b.client(second).Database())
	require.NoError(t, stop())
	b.writeAll(second, 31)
}

// TestAPositionOfBeforeTakesTheTable that it finds, unless that is empty.
func TestAPositionOfBeforeTakesTheTable(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 20)
	b.writeAll(cfg, 20)
	b.forgetTable()
	require.NoError(t, b.client(cfg).Release(b.ctx))
	require.Contains(t, b.requirePaused(b.elsewhere()), "is empty")

	b.publish(0, 21, 30)
	b.writeAll(cfg, 30)
	require.NotNil(t, b.recorded(0).Table)
	owners, err := b.client(cfg).Owners(b.ctx)
	require.NoError(t, err)
	require.Equal(t, []string{b.deployment.ID}, owners)
	b.requireEachOnce(cfg, 30)
}

func TestTwoDeploymentsInOneDatabase(t *testing.T) {
	t.Parallel()
	b, other := setup(t, 1), setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 20)
	other.publish(0, 1, 30)
	b.writeAll(cfg, 20)
	said := other.requirePaused(cfg)
	require.Contains(t, said, b.deployment.ID)
	require.Contains(t, said, other.deployment.ID)

	// And where a version of before has filled it, so that no deployment is in its ledger.
	require.NoError(t, b.client(cfg).Release(b.ctx))
	require.Contains(t, other.requirePaused(cfg), "has written none of them")
	require.ErrorContains(t, NotFirst(b.ctx, b.client(cfg)), "20 rows of an unknown deployment")
	b.publish(0, 21, 25)
	b.writeAll(cfg, 25)
	require.ErrorContains(t, NotFirst(b.ctx, b.client(cfg)), "25 rows of deployment "+b.deployment.ID)
	require.True(t, isRefusal(NotFirst(b.ctx, b.client(cfg))))
	b.requireEachOnce(cfg, 25)
	require.NoError(t, NotFirst(b.ctx, b.client(b.elsewhere())), "there is no table")
}

// TestTwoClaimAtOnce: ClickHouse has no compare-and-set, so both are refused rather than none.
func TestTwoClaimAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 5)
	s := b.service(cfg)
	stop := b.start(s)
	b.waitDone(0, 5)
	require.NoError(t, b.client(cfg).Claim(b.ctx, "another"))
	s.guard.look(b.ctx)
	b.publish(0, 6, 10)
	said := b.awaitPaused(s)
	require.Contains(t, said, "another")
	require.Contains(t, said, b.deployment.ID)
	require.NoError(t, AdoptTable(b.ctx, b.js, b.client(cfg), b.deployment))
	b.waitDone(0, 10)
	require.NoError(t, stop())
}

func TestALostPositionIsNoFirstStart(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 20)
	b.writeAll(cfg, 20)
	require.NoError(t, b.js.DeleteKeyValue(b.ctx, topology.WriterBucket))
	b.ensure()
	b.publish(0, 21, 30)
	require.Contains(t, b.requirePaused(cfg), "sendhouse repair positions")
	for range 2 {
		done, err := RestorePosition(b.ctx, b.js, b.client(cfg), 0)
		require.NoError(t, err)
		require.EqualValues(t, 20, done)
	}
	b.writeAll(cfg, 30)
	b.requireEachOnce(cfg, 30)
}

// TestAnOlderBackupOfNATS under a newer table: the writer pauses, and stays so when the log has grown past the table.
func TestAnOlderBackupOfNATS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := setupAt(t, 1, "127.0.0.1:0", filepath.Join(dir, "now"))
	cfg := b.full()
	b.publish(0, 1, 20)
	b.writeAll(cfg, 20)
	b.js.Conn().Close()
	b.nats.Shutdown()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "older"), os.DirFS(filepath.Join(dir, "now"))))
	now := setupAt(t, 1, "127.0.0.1:0", filepath.Join(dir, "now"))
	now.publish(0, 21, 40)
	now.writeAll(cfg, 40)

	older := setupAt(t, 1, "127.0.0.1:0", filepath.Join(dir, "older"))
	require.Equal(t, now.deployment, older.deployment)
	said := older.requirePaused(cfg)
	require.Contains(t, said, "up to partition_seq 40")
	require.Contains(t, said, "position is at 20")
	older.publish(0, 21, 60)
	require.Contains(t, older.requirePaused(cfg), "another message at partition_seq 40")
	// The way out, on a copy of the table: the rows that no log has are given up.
	way := older.requirePaused(cfg)
	_, statement, found := strings.Cut(way, "ALTER TABLE ")
	require.True(t, found, way)
	tb := openTable(t, cfg.ClickHouseDSN)
	database := now.client(cfg).Database()
	require.NoError(t, tb.conn.Exec(t.Context(), "CREATE TABLE "+database+".kept AS "+tb.name))
	require.NoError(t, tb.conn.Exec(t.Context(), "INSERT INTO "+database+".kept SELECT * FROM "+tb.name))
	require.NoError(t, tb.conn.Exec(t.Context(), "ALTER TABLE "+statement))
	older.writeAll(cfg, 60)
	older.requireEachOnce(cfg, 60)
	require.NoError(t, tb.conn.Exec(t.Context(), "TRUNCATE TABLE "+tb.name))
	require.NoError(t, tb.conn.Exec(t.Context(), "INSERT INTO "+tb.name+" SELECT * FROM "+database+".kept"))
	b.t = t
	now.requireEachOnce(cfg, 40)
	now.publish(0, 41, 50)
	now.writeAll(cfg, 50)
}

// TestAheadOfLog compares the table with the write-ahead log, as `up` does before it answers.
func TestAheadOfLog(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	client := b.client(cfg)
	b.publish(0, 1, 20) // made from records 1 to 20
	for range 20 {
		_, err := b.js.Publish(b.ctx, topology.WALSubject(0), []byte("x"))
		require.NoError(t, err)
	}
	b.writeAll(cfg, 20)
	require.NoError(t, aheadOfLog(b.ctx, b.js, client, 0))
	b.publish(0, 21, 21)
	b.writeAll(cfg, 21)
	err := aheadOfLog(b.ctx, b.js, client, 0)
	require.True(t, isRefusal(err))
	require.ErrorContains(t, err, "record 21")
	require.ErrorContains(t, err, "ends at record 20")

	require.NoError(t, b.js.DeleteStream(b.ctx, topology.WALStream(0)))
	err = aheadOfLog(b.ctx, b.js, client, 0)
	require.Error(t, err)
	require.False(t, isRefusal(err))
}

// TestATableThatWasMadeAnew while the writer writes it.
func TestATableThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 20)
	s := b.service(cfg)
	stop := b.start(s)
	before := b.waitDone(0, 20).Table
	tb := openTable(t, cfg.ClickHouseDSN)
	database := b.client(cfg).Database()
	require.NoError(t, tb.conn.Exec(b.ctx, "CREATE TABLE "+database+".messages_new AS "+tb.name))
	require.NoError(t, tb.conn.Exec(b.ctx, "INSERT INTO "+database+".messages_new SELECT * FROM "+tb.name+" WHERE partition_seq <= 5"))
	require.NoError(t, tb.conn.Exec(b.ctx, "EXCHANGE TABLES "+database+".messages_new AND "+tb.name))
	s.guard.look(b.ctx)
	b.publish(0, 21, 30)
	said := b.awaitPaused(s)
	require.Contains(t, said, before.UUID)
	require.NoError(t, AdoptTable(b.ctx, b.js, b.client(cfg), b.deployment))
	b.waitDone(0, 30)
	require.NoError(t, stop())
}

// elsewhere is full with another database.
func (b *bundle) elsewhere() Config {
	cfg := b.full()
	cfg.ClickHouseDSN += "_elsewhere"
	return cfg
}

// ensure makes what the deployment lacks.
func (b *bundle) ensure() {
	b.t.Helper()
	options := topology.DefaultOptions()
	for _, bucket := range options.BucketConfigs() {
		_, err := b.js.CreateOrUpdateKeyValue(b.ctx, bucket)
		require.NoError(b.t, err)
	}
}
