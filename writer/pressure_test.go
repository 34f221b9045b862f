package writer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// publishAt appends records first to last, accepted at a time, with payloads of a size.
func (b *bundle) publishAt(first, last int, at time.Time, payload int) {
	b.t.Helper()
	for n := first; n <= last; n++ {
		m := &message.Message{
			ChannelId: fmt.Sprintf("channel-%d", n%7), ChannelType: 2, FromUid: "user", Payload: make([]byte, payload),
			MessageId: uint64(b.ids[0].Next(at.UnixMilli())), MessageSeq: uint64(n), WalSeq: uint64(n),
		}
		record, err := m.MarshalVT()
		require.NoError(b.t, err)
		b.publishRecord(0, record)
	}
	b.flush()
}

// A batch over more months than ClickHouse takes in one block is cut between months, so that each month gets
// one part of it.
func TestTooManyPartitionsIsCutByMonth(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.ClickHouseDSN += "?max_partitions_per_insert_block=1"
	cfg.FlushInterval = time.Minute
	cfg.FlushRowsMax = 700
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	for month := range 7 {
		b.publishAt(month*100+1, month*100+100, time.Date(2025, time.Month(month+7), 15, 0, 0, 0, 0, time.UTC), 10)
	}
	b.waitDone(0, 700)
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 700)
	var parts uint64
	tb := openTable(t, cfg.ClickHouseDSN)
	require.NoError(t, tb.conn.QueryRow(b.ctx, "SELECT uniqExact(_part) FROM "+tb.name).Scan(&parts))
	require.EqualValues(t, 7, parts)
	require.InDelta(t, 6, valueOf(t, s.metrics.splits), 0)
	require.Empty(t, b.deadLetters())
}

// A batch for which ClickHouse has no memory goes in in smaller ones.
func TestMemoryLimitHalvesTheBatch(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	dsn := cfg.ClickHouseDSN
	cfg.ClickHouseDSN += "?max_memory_usage=30000000"
	cfg.FlushInterval = time.Minute
	cfg.FlushRowsMax, cfg.FlushBytesMax = 16_000, 64<<20
	b.publishAt(1, 32_000, time.Now(), 2000)
	s := b.service(cfg)
	stop := b.start(s)
	cfg.ClickHouseDSN = dsn
	b.stopMerges(cfg)
	b.waitDone(0, 32_000)
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 32_000)
	require.Positive(t, valueOf(t, s.metrics.retries[clickhouse.Memory]))
	require.Positive(t, valueOf(t, s.metrics.splits))
	require.Empty(t, b.deadLetters())
}

// Too many parts: the writer waits, with the batch as it is, for as long as it takes.
func TestTooManyPartsWaits(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	tb := openTable(t, cfg.ClickHouseDSN)
	setting := func(change string) { require.NoError(t, tb.conn.Exec(b.ctx, "ALTER TABLE "+tb.name+" "+change)) }
	setting("MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1, max_avg_part_size_for_too_many_parts = 0")
	b.publish(0, 1, 100)
	b.waitDone(0, 100)
	b.publish(0, 101, 200)
	require.ErrorContains(t, b.waitStatus(s, 0, stateRetrying).problem, "Too many parts")
	require.ErrorContains(t, s.Check(), "Too many parts")
	pending := b.recorded(0).Pending
	require.NotNil(t, pending)
	b.publish(0, 201, 300)
	setting("RESET SETTING parts_to_delay_insert, parts_to_throw_insert, max_avg_part_size_for_too_many_parts")
	b.waitDone(0, 300)
	require.NoError(t, stop())
	require.Positive(t, valueOf(t, s.metrics.retries[clickhouse.Backpressure]))
	require.Zero(t, valueOf(t, s.metrics.splits))
	b.requireEachOnce(cfg, 300)
}

// refusingStore refuses inserts with an error for as long as it has any, and notes what it was given.
type refusingStore struct {
	store
	mu      sync.Mutex
	errs    []error
	inserts []string
	unknown int // questions that it does not answer, before it does
}

func (s *refusingStore) Insert(ctx context.Context, b *clickhouse.Block, first, end int, token string) error {
	s.mu.Lock()
	s.inserts = append(s.inserts, fmt.Sprintf("%d-%d %s", b.PartitionSeq(first), b.PartitionSeq(end-1), token))
	var err error
	if len(s.errs) > 0 {
		err, s.errs = s.errs[0], s.errs[1:]
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.store.Insert(ctx, b, first, end, token)
}

func (s *refusingStore) Messages(ctx context.Context, span clickhouse.Span) (map[clickhouse.MessageAt]bool, error) {
	s.mu.Lock()
	s.unknown--
	unknown := s.unknown >= 0
	s.mu.Unlock()
	if unknown {
		return nil, errors.New("no answer")
	}
	return s.store.Messages(ctx, span)
}

func refusal(class clickhouse.Class, code int) error {
	return &clickhouse.Error{Op: "insert", Target: "test", Class: class, Code: code, Err: errors.New("refused by the test")}
}

// What ClickHouse refuses for now comes again, the same under the same token.
func TestRefusedForNowComesAgainTheSame(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err     error
		unknown int
	}{
		"read only":                  {refusal(clickhouse.Backpressure, 242), 0},
		"no space":                   {refusal(clickhouse.Backpressure, 243), 0},
		"configuration":              {refusal(clickhouse.Configuration, 516), 0},
		"ambiguous":                  {refusal(clickhouse.Ambiguous, 0), 0},
		"ambiguous, asked in vain":   {refusal(clickhouse.Ambiguous, 0), 5},
		"an error that is not known": {errors.New("something new"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			cfg.FlushInterval, cfg.FlushRowsMax = time.Minute, 2000
			s := b.service(cfg)
			refusing := &refusingStore{store: s.store, errs: []error{c.err, c.err, c.err}, unknown: c.unknown}
			s.store = refusing
			stop := b.start(s)
			b.publish(0, 1, 2000)
			p := b.waitDone(0, 2000)
			require.NoError(t, stop())
			want := "1-2000 " + tokenOf("MESSAGES_0", p.StreamCreated, seqRange{1, 2000})
			require.Equal(t, []string{want, want, want, want}, refusing.inserts)
			require.Empty(t, b.deadLetters())
			b.requireEachOnce(cfg, 2000)
		})
	}
}

// An attempt that was not answered may still go in under its token. Only when that is over is the piece cut.
func TestNothingIsCutWhileAnAttemptMayGoIn(t *testing.T) {
	t.Parallel()
	for name, unsure := range map[string]time.Duration{"it may": time.Hour, "that is over": time.Nanosecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			cfg.FlushInterval, cfg.FlushRowsMax = time.Minute, 2000
			s := b.service(cfg)
			s.timing.unsure = unsure
			refusing := &refusingStore{store: s.store, errs: []error{refusal(clickhouse.Ambiguous, 0), refusal(clickhouse.Memory, 241)}}
			s.store = refusing
			stop := b.start(s)
			b.publish(0, 1, 2000)
			p := b.waitDone(0, 2000)
			require.NoError(t, stop())
			token := func(of seqRange) string { return of.String() + " " + tokenOf("MESSAGES_0", p.StreamCreated, of) }
			whole := token(seqRange{1, 2000})
			want := []string{whole, whole, whole}
			if unsure < time.Minute {
				want = []string{whole, whole, token(seqRange{1, 1000}), token(seqRange{1001, 2000})}
			}
			require.Equal(t, want, refusing.inserts)
			b.requireEachOnce(cfg, 2000)
		})
	}
}

// A small batch is not cut for want of memory, and after a while pieces grow again.
func TestMemoryLimitEnds(t *testing.T) {
	t.Parallel()
	r := &runner{limits: limits{rows: 4000}, partition: 0, now: time.Now}
	none := &batch{} // so that nothing need be asked
	require.False(t, r.mayCut(t.Context(), none, seqRange{1, memoryRecordsMin}))
	require.True(t, r.mayCut(t.Context(), none, seqRange{1, 4000}))
	head, tail := r.withinMemory(seqRange{1, 4000})
	require.Equal(t, seqRange{1, 2000}, head)
	require.Equal(t, &seqRange{2001, 4000}, tail)
	for range memoryTriesLarger {
		require.EqualValues(t, 2000, r.memory.records)
		r.tookWithinMemory()
	}
	require.EqualValues(t, 4000, r.memory.records)
	for range memoryTriesLarger {
		r.tookWithinMemory()
	}
	head, tail = r.withinMemory(seqRange{1, 4000})
	require.Equal(t, seqRange{1, 4000}, head)
	require.Nil(t, tail)

	require.True(t, r.mayCut(t.Context(), none, seqRange{1, 4000}))
	r.position.Pending = &pendingRange{seqRange: seqRange{5, 4000}}
	head, tail = r.withinMemory(seqRange{5, 4000})
	require.Equal(t, seqRange{5, 4000}, head, "what has a token goes in whole")
	require.Nil(t, tail)
}

// While ClickHouse takes nothing, the batches of all partitions together keep within their memory, and what
// they may not take waits in the message log.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const partitions = 3
	b := setup(t, partitions)
	cfg := b.full()
	cfg.WriterBytesMax = writerBytesMaxFloor
	cfg.FlushBytesMax = 8 << 20
	s := b.service(cfg)
	slow := newSlowStore(s.store)
	s.store = slow
	s.inserts = make(chan struct{}, 1) // one insert at a time: the first holds all others up
	stop := b.start(s)
	for p := range partitions {
		b.publish(p, 1, 40_000) // some 25 MiB of memory each
	}
	<-slow.held
	testkit.WaitFor(t, time.Minute, "the memory to be used up", func(context.Context) error {
		if taken := s.budget.taken(); taken < writerBytesMaxFloor-partitions*reserveStep {
			return fmt.Errorf("%d bytes are taken", taken)
		}
		return nil
	})
	for range 100 {
		require.LessOrEqual(t, s.budget.taken(), int64(writerBytesMaxFloor))
		require.NoError(t, lifecycle.Pause(b.ctx, time.Millisecond)) // readers that would take more have time to
	}
	close(slow.release)
	for p := range partitions {
		b.waitDone(p, 40_000)
	}
	require.NoError(t, stop())
	require.Zero(t, s.budget.taken())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, partitions*40_000, rows)
	require.EqualValues(t, partitions*40_000, different)
}
