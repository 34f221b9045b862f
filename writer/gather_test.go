package writer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// testRecord makes a record of the message log with a payload of a size.
func testRecord(t testing.TB, seq uint64, payload int) []byte {
	t.Helper()
	m := &message.Message{ChannelId: "c", ChannelType: 2, MessageId: uint64(message.MakeID(int64(seq), 0, 0)), MessageSeq: seq, Payload: make([]byte, payload)}
	encoded, err := m.MarshalVT()
	require.NoError(t, err)
	return encoded
}

type gathering struct {
	*gatherer
	t      *testing.T
	budget *budget
}

func gather(t *testing.T, bounds limits, bytes int64, next, endAt uint64) *gathering {
	shared := newBudget(bytes)
	return &gathering{gatherer: newGatherer(bounds, shared, next, endAt, [2]*batch{{}, {}}), t: t, budget: shared}
}

// feed adds records from a goroutine of its own, as the consumer does.
func (g *gathering) feed(first, last uint64, payload int) {
	go func() {
		for seq := first; seq <= last; seq++ {
			g.add(seq, testRecord(g.t, seq, payload), "")
		}
	}()
}

// spans takes batches until the last sequence has come.
func (g *gathering) spans(last uint64) []seqRange {
	var spans []seqRange
	for {
		b, err := g.take(g.t.Context())
		require.NoError(g.t, err)
		spans = append(spans, b.span())
		end := b.span().Last
		g.give(b)
		if end >= last {
			return spans
		}
	}
}

var wide = limits{rows: 1000, bytes: 1 << 30, interval: time.Hour}

func TestBatchEndsByRows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bounds := wide
		bounds.rows = 10
		g := gather(t, bounds, 1<<30, 5, 0)
		g.feed(5, 34, 1)
		require.Equal(t, []seqRange{{5, 14}, {15, 24}, {25, 34}}, g.spans(34))
	})
}

func TestBatchEndsByBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bounds := wide
		bounds.bytes = 4500
		g := gather(t, bounds, 1<<30, 1, 0)
		g.feed(1, 15, 1000)
		require.Equal(t, []seqRange{{1, 4}, {5, 8}, {9, 12}}, g.spans(12))
	})
}

func TestBatchEndsByTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bounds := wide
		bounds.interval = 500 * time.Millisecond
		g := gather(t, bounds, 1<<30, 1, 0)
		begun := time.Now()
		g.feed(1, 3, 1)
		require.Equal(t, []seqRange{{1, 3}}, g.spans(3))
		require.Equal(t, 500*time.Millisecond, time.Since(begun))

		// The time counts from the first record, not from the last batch.
		<-time.After(10 * time.Second)
		begun = time.Now()
		g.feed(4, 4, 1)
		require.Equal(t, []seqRange{{4, 4}}, g.spans(4))
		require.Equal(t, 500*time.Millisecond, time.Since(begun))
	})
}

// A batch that has many rows by then is inserted after half of the time; one that gets them later, when the last of them comes.
func TestLargeBatchEndsAtHalfTime(t *testing.T) {
	t.Parallel()
	for behind, want := range map[time.Duration]time.Duration{time.Millisecond: 5 * time.Second, 3 * time.Second: 5 * time.Second, 7 * time.Second: 7 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			bounds := limits{rows: 2 * halfTimeRows, bytes: 1 << 30, interval: 10 * time.Second}
			g := gather(t, bounds, 1<<30, 1, 0)
			begun := time.Now()
			g.feed(1, halfTimeRows-1, 1)
			time.AfterFunc(behind, func() { g.add(halfTimeRows, testRecord(t, halfTimeRows, 1), "") })
			require.Equal(t, []seqRange{{1, halfTimeRows}}, g.spans(halfTimeRows))
			require.Equal(t, want, time.Since(begun))
		})
	}
}

// While the last batch is still being inserted, the next one keeps growing, up to its limit, and then
// the consumer waits.
func TestBatchGrowsUntilItIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bounds := limits{rows: 100, bytes: 1 << 30, interval: time.Second}
		g := gather(t, bounds, 1<<30, 1, 0)
		g.feed(1, 10, 1)
		first, err := g.take(t.Context())
		require.NoError(t, err)
		require.Equal(t, seqRange{1, 10}, first.span())
		g.feed(11, 1000, 1)
		<-time.After(time.Minute)
		synctest.Wait()
		_, received, blocked := g.progress()
		require.EqualValues(t, 110, received)
		require.True(t, blocked)
		require.Equal(t, seqRange{1, 10}, first.span(), "a taken batch does not change")
		g.give(first)
		require.Equal(t, seqRange{11, 110}, g.spans(110)[0])
		g.stop(errSession)
	})
}

func TestPendingRangeIsReadAsItWas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := gather(t, limits{rows: 10, bytes: 1, interval: time.Millisecond}, 1, 7, 31)
		g.feed(7, 20, 100)
		<-time.After(time.Minute) // neither time nor size nor memory ends it
		g.feed(21, 31, 100)
		require.Equal(t, []seqRange{{7, 31}}, g.spans(31))
	})
}

func TestBatchesShareTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// Of two partitions with room for less than one and a half batches, the second gets what is left,
		// inserts that, and continues when the first releases its memory.
		const memory = 3 << 20
		a := gather(t, wide, memory, 1, 0)
		b := gather(t, wide, memory, 1, 0)
		b.gatherer.budget = a.budget
		a.feed(1, 1<<20/600, 8)
		synctest.Wait()
		b.feed(1, 600, 8<<10)
		synctest.Wait()
		taken, err := b.take(t.Context())
		require.NoError(t, err)
		some := taken.span().Last
		require.Less(t, some, uint64(600))
		synctest.Wait()
		_, _, blocked := b.progress()
		require.True(t, blocked, "no memory while the batch is being inserted")
		b.give(taken)
		b.spans(599)
		a.stop(errSession)
		b.stop(errSession)
		ok, _ := a.budget.take(memory)
		require.True(t, ok, "all memory came back")
	})
}

func TestBatchLetsGoOfLargeSlices(t *testing.T) {
	t.Parallel()
	var b batch
	use := func(records int) {
		for i := range records {
			b.add(uint64(i+1), []byte("x"))
		}
		b.reset()
	}
	use(20_000)
	for range smallBatchesMax {
		use(100)
		require.GreaterOrEqual(t, cap(b.records), 20_000)
	}
	use(100)
	require.Zero(t, cap(b.records))
	use(20_000)
	for range 3 { // large ones in between keep them
		for range smallBatchesMax {
			use(100)
		}
		use(10_000)
	}
	require.GreaterOrEqual(t, cap(b.records), 20_000)
}

func TestGapEndsTheFlowBehindWhatCameBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := gather(t, wide, 1<<30, 1, 0)
		for _, seq := range []uint64{1, 2, 1, 2, 3, 7} { // 1 and 2 again: a tail derived again
			g.add(seq, testRecord(t, seq, 1), "")
		}
		require.Equal(t, []seqRange{{1, 3}}, g.spans(3))
		_, err := g.take(t.Context())
		var gap *gapError
		require.ErrorAs(t, err, &gap)
		require.Equal(t, seqRange{4, 6}, gap.missing)
	})
}

func TestStopFreesAWaitingConsumer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bounds := wide
		bounds.rows = 2
		g := gather(t, bounds, 1<<30, 1, 0)
		g.feed(1, 10, 1)
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("stop")
		cancel(cause)
		g.stop(errSession)
		synctest.Wait() // the consumer's goroutine ends, or the bubble reports it
		_, err := g.take(ctx)
		require.ErrorIs(t, err, errSession)
	})
}
