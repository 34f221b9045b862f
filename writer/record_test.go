package writer

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// TestAPositionWithinARecord: a batch ends where it is full, which is in the middle of a record as a rule. A writer that dies there is followed by
// one that begins with that record, which it finds by the position's note, or without one, or with a wrong one.
func TestAPositionWithinARecord(t *testing.T) {
	t.Parallel()
	for name, note := range map[string]func(*position){
		"noted":     func(*position) {},
		"not noted": func(p *position) { p.DoneRecord = 0 },
		"wrong":     func(p *position) { p.DoneRecord = 1 },
		"too far":   func(p *position) { p.DoneRecord = 1_000_000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			cfg.FlushRowsMax, cfg.FlushInterval, cfg.WriterStopTimeout = 100, time.Minute, 10*time.Millisecond
			b.publishBatch(0, b.batch(1, 1, 30))
			b.publishBatch(0, b.batch(2, 31, 0))
			b.publishBatch(0, b.batch(3, 31, 1000))
			b.publishBatch(0, b.batch(4, 1031, 70))
			b.flush()
			b.dieInInsert(cfg, true, 4)
			p := b.recorded(0)
			require.EqualValues(t, 400, p.Done)
			require.EqualValues(t, 3, p.DoneRecord)
			require.NotNil(t, p.Pending)
			note(&p)
			b.put(0, p)

			stop := b.start(b.service(cfg))
			p = b.waitDone(0, 1100)
			require.NoError(t, stop())
			require.EqualValues(t, 4, p.DoneRecord)
			require.Zero(t, p.LostMessages)
			b.requireEachOnce(cfg, 1100)
		})
	}
}

// TestARecordThatIsNoneStopsThePartition: what is behind it cannot be told apart from what somebody else wrote, so a person must look.
func TestARecordThatIsNoneStopsThePartition(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	cfg := b.full()
	b.publishRecords(1, 200)
	b.publish(1, 1, 10)
	s := b.service(cfg)
	stop := b.start(s)
	b.waitDone(0, 200)
	b.waitDone(1, 10)
	b.publishBatch(0, []byte("no batch"))
	b.flush()
	want := fmt.Sprintf("record %d of MESSAGES_0: not an encoded MessageBatch", b.records+1)
	require.ErrorContains(t, b.waitStatus(s, 0, statePaused).problem, want)
	require.ErrorContains(t, s.Check(), want)
	b.publish(1, 11, 20)
	b.waitDone(1, 20)
	require.NoError(t, stop())
	all, err := Status(b.ctx, b.js, 2)
	require.NoError(t, err, "one log that cannot be read hides no other partition")
	require.Contains(t, all[0].Problem, want)
	require.EqualValues(t, 200, all[0].Done)
	require.EqualValues(t, 200, all[0].StreamLast)
	require.EqualValues(t, 20, all[1].StreamLast)
	require.Empty(t, all[1].Problem)
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 220, rows)
	require.EqualValues(t, 220, different)
	require.Empty(t, b.deadLetters())
}

// spoken keeps what is logged.
type spoken struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *spoken) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(line)
}

func (s *spoken) count(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), part)
}

// TestARecordThatIsNoneBetweenOthers: the writer inserts what precedes an invalid record but nothing after it, and reports the
// partition as paused, once, as long as the record is there; a restarted writer does the same. When a person has deleted the
// record, the writer continues and nothing is lost.
func TestARecordThatIsNoneBetweenOthers(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	var log spoken
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	cfg := b.full()
	b.publishRecords(1, 60)
	stop := b.start(b.service(cfg))
	b.stopMerges(cfg)
	b.waitDone(0, 60)
	require.NoError(t, stop())
	b.publishRecords(61, 100)
	b.publishBatch(0, []byte("no batch"))
	b.flush()
	b.records++
	foreign := b.records
	want := fmt.Sprintf("record %d of MESSAGES_0: not an encoded MessageBatch", foreign)
	b.publishRecords(101, 200)

	s := b.service(cfg)
	stop = b.start(s)
	require.ErrorContains(t, b.waitStatus(s, 0, statePaused).problem, want)
	b.waitRestarts(s, 5)
	require.Positive(t, log.count("level=ERROR"))
	require.Less(t, log.count("level=ERROR"), 5, "not at each restart: %s", log.text.String())
	require.Zero(t, log.count("partition is being written again"))
	require.ErrorContains(t, s.Check(), want)
	require.NoError(t, stop())
	require.EqualValues(t, 100, b.recorded(0).Done)

	s = b.service(cfg)
	stop = b.start(s)
	require.ErrorContains(t, b.waitStatus(s, 0, statePaused).problem, want)
	b.waitRestarts(s, 2)
	b.requireEachOnce(cfg, 100)
	require.NoError(t, b.stream(0).DeleteMsg(b.ctx, foreign))
	p := b.waitDone(0, 200)
	require.Zero(t, p.LostMessages)
	b.waitStatus(s, 0, stateRunning)
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 200)
	require.Empty(t, b.deadLetters())
}

// waitRestarts waits until the reader of partition 0 has restarted n times.
func (b *bundle) waitRestarts(s *Service, n int) {
	b.t.Helper()
	testkit.WaitFor(b.t, time.Minute, "the reader of the partition to restart", func(context.Context) error {
		if have := valueOf(b.t, s.metrics.partitions[0].restarts); have < float64(n) {
			return fmt.Errorf("%v times", have)
		}
		return nil
	})
}

// TestAllRecordsAreGone: only the next message reveals how much is lost; until then the writer records no loss.
func TestAllRecordsAreGone(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publishRecords(1, 200)
	s := b.service(cfg)
	stop := b.start(s)
	b.waitDone(0, 200)
	require.NoError(t, stop())
	b.publishRecords(201, 350)
	require.NoError(t, b.stream(0).Purge(b.ctx))

	s = b.service(cfg)
	stop = b.start(s)
	b.waitStatus(s, 0, stateRunning)
	require.NoError(t, s.Check())
	all, err := Status(b.ctx, b.js, 1)
	require.NoError(t, err)
	require.EqualValues(t, 200, all[0].StreamLast)
	require.Zero(t, all[0].Lag)
	require.Zero(t, all[0].LostMessages)

	b.publishRecords(351, 400)
	p := b.waitDone(0, 400)
	require.Equal(t, []seqRange{{201, 350}}, p.Lost)
	require.EqualValues(t, 150, p.LostMessages)
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 250, rows)
	require.EqualValues(t, 250, different)
	require.Len(t, b.deadLetters(), 1)
}

// TestPendingRangeOfALogThatIsGone: if the log has nothing left of a pending range, only its next message shows whether the
// range was inserted. Until then the writer is ready: in one process with ingest, no message would arrive otherwise.
func TestPendingRangeOfALogThatIsGone(t *testing.T) {
	t.Parallel()
	for _, inserted := range []bool{true, false} {
		t.Run(fmt.Sprintf("inserted=%t", inserted), func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			full := cfg
			full.FlushRowsMax, full.FlushInterval, full.WriterStopTimeout = 60, time.Minute, 10*time.Millisecond
			b.publishRecords(1, 200)
			b.dieInInsert(full, inserted, 1)
			before := b.recorded(0)
			require.Equal(t, seqRange{61, 120}, before.Pending.seqRange)
			require.NoError(t, b.stream(0).Purge(b.ctx))

			s := b.service(cfg)
			stop := b.start(s)
			b.waitStatus(s, 0, stateRunning)
			require.NoError(t, s.Check())
			now := b.recorded(0)
			require.Equal(t, before.Pending, now.Pending)
			require.Zero(t, now.LostMessages)
			b.publishRecords(201, 250)
			p := b.waitDone(0, 250)
			require.NoError(t, stop())
			lost := seqRange{61, 200}
			if inserted {
				lost.First = 121
			}
			require.Equal(t, []seqRange{lost}, p.Lost)
			rows, different := openTable(t, cfg.ClickHouseDSN).counts()
			require.Equal(t, 250-lost.count(), rows)
			require.Equal(t, 250-lost.count(), different)
		})
	}
}

// TestNothingWasReadAndAllRecordsAreGone: a writer that has no position yet counts from the first message that there ever was.
func TestNothingWasReadAndAllRecordsAreGone(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publishRecords(1, 180)
	require.NoError(t, b.stream(0).Purge(b.ctx))
	s := b.service(cfg)
	stop := b.start(s)
	b.waitStatus(s, 0, stateRunning)
	require.NoError(t, s.Check())
	require.Zero(t, b.recorded(0).LostMessages)
	b.publishRecords(181, 181)
	p := b.waitDone(0, 181)
	require.Equal(t, []seqRange{{1, 180}}, p.Lost)
	require.NoError(t, stop())
	rows, _ := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 1, rows)
}

// TestOnlyEmptyRecordsAreLeft: empty records still contain the next partition_seq, so the loss is counted at once.
func TestOnlyEmptyRecordsAreLeft(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publishBatch(0, b.batch(1, 1, 40))
	b.publishBatch(0, b.batch(2, 41, 0))
	b.publishBatch(0, b.batch(3, 41, 0))
	b.flush()
	require.NoError(t, b.stream(0).Purge(b.ctx, jetstream.WithPurgeSequence(2)))
	s := b.service(cfg)
	stop := b.start(s)
	p := b.waitDone(0, 40)
	require.Equal(t, []seqRange{{1, 40}}, p.Lost)
	b.waitStatus(s, 0, stateRunning)
	b.publishBatch(0, b.batch(4, 41, 10))
	b.flush()
	p = b.waitDone(0, 50)
	require.EqualValues(t, 40, p.LostMessages)
	require.EqualValues(t, 4, p.DoneRecord)
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 10, rows)
	require.EqualValues(t, 10, different)
}

// TestPoisonWithinARecord: of a record of many only the row that is refused becomes a dead letter.
func TestPoisonWithinARecord(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	tb := b.writeInto("ALTER TABLE %s ADD CONSTRAINT poison CHECK partition_seq NOT IN (1, 60, 61, 350)", func() { b.publishRecords(1, 350) }, 350)
	var seqs []string
	for _, letter := range b.deadLetters() {
		seq := letter.Header.Get(deadletter.HeaderPartitionSeq)
		seqs = append(seqs, seq)
		var m message.Message
		require.NoError(t, m.UnmarshalVT(letter.Data))
		n, err := strconv.Atoi(seq)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("no-0-%d", n), m.GetClientMsgNo())
	}
	require.Equal(t, []string{"1", "60", "61", "350"}, seqs, "in their order")
	rows, different := tb.counts()
	require.EqualValues(t, 346, rows)
	require.EqualValues(t, 346, different)
}

// TestRecordsAreDerivedAgain: the log loses its tail in the middle of what was read, and gets the same records again.
func TestRecordsAreDerivedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	var records [][]byte
	for n, size := range []int{50, 1, 0, 200, 49} {
		first := []int{1, 51, 52, 52, 252}[n]
		records = append(records, b.batch(uint64(n+1), first, size))
	}
	put := func(from, to int) {
		for _, record := range records[from:to] {
			b.publishBatch(0, record)
		}
		b.flush()
	}
	put(0, 4)
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	b.waitDone(0, 251)
	b.recreate(0)
	put(0, 3)
	b.waitStatus(s, 0, stateBehind)
	put(3, 5)
	b.waitDone(0, 300)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 300)
	require.Empty(t, b.deadLetters())
}

// TestTheTailIsLostWithinARange: a writer died while it inserted a range that ends within a record, and the log lost its tail from before that range
// on. Its successor waits until all of the range is there again, and not just its first record.
func TestTheTailIsLostWithinARange(t *testing.T) {
	t.Parallel()
	for _, inserted := range []bool{true, false} {
		t.Run(fmt.Sprintf("inserted=%t", inserted), func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			full := cfg
			full.FlushRowsMax, full.FlushInterval, full.WriterStopTimeout = 100, time.Minute, 10*time.Millisecond
			records := [][]byte{b.batch(1, 1, 130), b.batch(2, 131, 0), b.batch(3, 131, 30), b.batch(4, 161, 120)}
			put := func(records ...[]byte) {
				for _, record := range records {
					b.publishBatch(0, record)
				}
				b.flush()
			}
			put(records...)
			b.dieInInsert(full, inserted, 1)
			require.Equal(t, seqRange{101, 200}, b.recorded(0).Pending.seqRange) // from the first record into the fourth

			b.recreate(0)
			put(records[0])
			s := b.service(cfg)
			stop := b.start(s)
			b.waitStatus(s, 0, stateBehind)
			put(records[1:3]...)
			b.waitStatus(s, 0, stateBehind)
			put(records[3])
			p := b.waitDone(0, 280)
			require.NoError(t, stop())
			require.Zero(t, p.LostMessages)
			require.EqualValues(t, 4, p.DoneRecord)
			b.requireEachOnce(cfg, 280)
			require.Empty(t, b.deadLetters())
		})
	}
}
