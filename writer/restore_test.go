package writer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// written runs a writer until a table has the messages 1 to 300 in three parts and their rows are counted.
func (b *bundle) written(cfg Config) *table {
	b.t.Helper()
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	b.publish(0, 1, 300)
	b.waitDone(0, 300)
	require.NoError(b.t, stop())
	b.count(cfg)
	return openTable(b.t, cfg.ClickHouseDSN)
}

// count runs a writer until it has counted the rows up to its position.
func (b *bundle) count(cfg Config) {
	b.t.Helper()
	stop := b.start(b.service(cfg))
	b.waitTally(func(t tally) bool { return t.Last == b.recorded(0).Done })
	require.NoError(b.t, stop())
}

func (b *bundle) waitTally(is func(t tally) bool) (last tally) {
	b.t.Helper()
	kv, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(b.t, err)
	testkit.WaitFor(b.t, time.Minute, "rows to be counted", func(ctx context.Context) error {
		if last, _, err = readTally(ctx, kv, 0); err == nil && !is(last) {
			err = fmt.Errorf("%+v", last)
		}
		return err
	})
	return last
}

// waitRows waits until the table has the messages 1 to last, each once.
func (b *bundle) waitRows(tb *table, last uint64) {
	b.t.Helper()
	testkit.WaitFor(b.t, time.Minute, "rows", func(context.Context) error {
		if rows, different := tb.counts(); rows != last || different != last {
			return fmt.Errorf("%d rows, %d different, want %d", rows, different, last)
		}
		return nil
	})
}

// detach sets the part aside that holds a message.
func (tb *table) detach(ctx context.Context, seq int) {
	tb.t.Helper()
	var part string
	require.NoError(tb.t, tb.conn.QueryRow(ctx, fmt.Sprintf("SELECT _part FROM %s WHERE partition_seq = %d", tb.name, seq)).Scan(&part))
	require.NoError(tb.t, tb.conn.Exec(ctx, "ALTER TABLE "+tb.name+" DETACH PART '"+part+"'"))
}

// waitRestored waits until the writer has seen that so many rows are there again.
func waitRestored(t *testing.T, s *Service, rows uint64) {
	t.Helper()
	testkit.WaitFor(t, time.Minute, "rows to be counted as restored", func(context.Context) error {
		if have := valueOf(t, s.metrics.partitions[0].restored); have != float64(rows) {
			return fmt.Errorf("%v, want %d", have, rows)
		}
		return nil
	})
}

func restoring(t *testing.T) (*bundle, Config, *table) {
	t.Helper()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 100
	return b, cfg, b.written(cfg)
}

// Rows that are gone when a writer starts are inserted again, whatever took them.
func TestLostRowsAreRestoredAtStart(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(b *bundle, cfg Config, tb *table){
		"a part": func(b *bundle, _ Config, tb *table) { tb.detach(b.ctx, 150) },
		"all": func(b *bundle, _ Config, tb *table) {
			require.NoError(b.t, tb.conn.Exec(b.ctx, "TRUNCATE TABLE "+tb.name))
		},
		"some": func(b *bundle, cfg Config, _ *table) { b.forget(cfg, "partition_seq % 7 = 0 OR partition_seq < 30") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, cfg, tb := restoring(t)
			lose(b, cfg, tb)
			b.adopt(cfg)
			rows, _ := tb.counts()
			require.Less(t, rows, uint64(300))
			s := b.service(cfg)
			stop := b.start(s)
			b.waitRows(tb, 300)
			waitRestored(t, s, 300-rows)
			require.NoError(t, stop())
			require.Zero(t, b.waitTally(func(tally) bool { return true }).Missing)
		})
	}
}

// Rows that are lost while a writer runs are inserted again, while others come in.
func TestLostRowsAreRestoredWhileRunning(t *testing.T) {
	t.Parallel()
	b, cfg, tb := restoring(t)
	s := b.service(cfg)
	s.timing.health = 20 * time.Millisecond
	stop := b.start(s)
	b.publish(0, 301, 400)
	b.waitDone(0, 400)
	testkit.WaitFor(t, time.Minute, "the signs to be seen", func(context.Context) error {
		if valueOf(t, s.metrics.server.rows) != 400 {
			return fmt.Errorf("%v rows", valueOf(t, s.metrics.server.rows))
		}
		return nil
	})
	for round, seq := range []int{150, 350, 50} {
		tb.detach(b.ctx, seq)
		b.publish(0, 401+round*100, 500+round*100)
		b.waitRows(tb, uint64(500+round*100))
	}
	waitRestored(t, s, 300)
	require.NoError(t, stop())
}

// Rows that the message log does not hold any more are counted, and the count stays until a person removes it.
func TestRowsThatCannotBeRestored(t *testing.T) {
	t.Parallel()
	b, cfg, tb := restoring(t)
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(b.ctx, jetstream.WithPurgeSequence(151))) // each record has one message
	tb.detach(b.ctx, 150)                                                     // 101 to 200, of which the log has 151 to 200
	for range 2 {
		s := b.service(cfg)
		stop := b.start(s)
		require.EqualValues(t, 50, b.waitTally(func(t tally) bool { return t.Missing > 0 }).Missing)
		testkit.WaitFor(t, time.Minute, "the metric", func(context.Context) error {
			if missing := valueOf(t, s.metrics.missing.WithLabelValues("0")); missing != 50 {
				return fmt.Errorf("%v rows are missing", missing)
			}
			return nil
		})
		b.waitRows(tb, 250)
		all, err := Status(b.ctx, b.js, 1)
		require.NoError(t, err)
		require.EqualValues(t, 50, all[0].MissingRows)
		require.NoError(t, stop())
	}
}

// Rows that were deleted by a statement, and messages that became dead letters, have no rows by intent.
func TestDeletedRowsStayDeleted(t *testing.T) {
	t.Parallel()
	b, cfg, tb := restoring(t)
	b.publishRecord(0, []byte("no message"))
	b.flush()
	b.deleteRows(cfg, "partition_seq BETWEEN 50 AND 99")
	stop := b.start(b.service(cfg))
	b.waitDone(0, 301)
	b.waitTally(func(t tally) bool { return t.Rows == 250 })
	require.NoError(t, stop())
	b.count(cfg)
	rows, different := tb.counts()
	require.EqualValues(t, 250, rows)
	require.EqualValues(t, 250, different)
	require.Zero(t, b.waitTally(func(tally) bool { return true }).Missing)
}
