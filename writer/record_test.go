package writer

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

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
			s := b.service(cfg)
			f := newFaults(stepInsert, true, true, 4)
			f.inject(s)
			stop := b.start(s)
			b.stopMerges(cfg)
			<-f.hit
			require.NoError(t, stop())
			p := b.recorded(0)
			require.EqualValues(t, 400, p.Done)
			require.EqualValues(t, 3, p.DoneRecord)
			require.NotNil(t, p.Pending)
			note(&p)
			b.put(0, p)

			stop = b.start(b.service(cfg))
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
	rows, different := openTable(t, cfg.ClickHouseDSN).counts(false)
	require.EqualValues(t, 220, rows)
	require.EqualValues(t, 220, different)
	require.Empty(t, b.deadLetters())
}

// TestAllRecordsAreGone: how much is lost is known when the log goes on, and not before; until then nothing is made up.
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
	testkit.WaitFor(t, time.Minute, "the writer to be ready", func(context.Context) error { return s.Check() })
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
	rows, different := openTable(t, cfg.ClickHouseDSN).counts(false)
	require.EqualValues(t, 250, rows)
	require.EqualValues(t, 250, different)
	require.Len(t, b.deadLetters(), 1)
}

// TestPoisonWithinARecord: of a record of many only the row that is refused becomes a dead letter.
func TestPoisonWithinARecord(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	tb := openTable(t, cfg.ClickHouseDSN)
	require.NoError(t, tb.conn.Exec(b.ctx, "ALTER TABLE "+tb.name+" ADD CONSTRAINT poison CHECK partition_seq NOT IN (1, 60, 61, 350)"))
	b.publishRecords(1, 350)
	b.waitDone(0, 350)
	require.NoError(t, stop())
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
	rows, different := tb.counts(false)
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
