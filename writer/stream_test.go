package writer

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// full is the configuration for the embedded engine, with a database of the test's own.
func (b *bundle) full() Config { return b.config(engine.DSN(b.t)) }

// waitStatus waits until a partition is in a state.
func (b *bundle) waitStatus(s *Service, partition int, want state) *status {
	b.t.Helper()
	now := &status{state: stateStopped}
	for {
		s.mu.Lock()
		if r := s.runners[partition]; r != nil {
			now = r.status.Load()
		}
		s.mu.Unlock()
		if now.state == want {
			return now
		}
		select {
		case <-b.ctx.Done():
			require.FailNow(b.t, "state not reached", "want %s, have %s: %v", want, now.state, now.problem)
		case <-time.After(5 * time.Millisecond): // the state is for people: nothing signals it
		}
	}
}

func (b *bundle) stream(partition int) jetstream.Stream {
	b.t.Helper()
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(partition))
	require.NoError(b.t, err)
	return stream
}

// recreate deletes a partition's message log and creates it again, empty.
func (b *bundle) recreate(partition int) {
	b.t.Helper()
	cfg := b.stream(partition).CachedInfo().Config
	require.NoError(b.t, b.js.DeleteStream(b.ctx, cfg.Name))
	_, err := b.js.CreateStream(b.ctx, cfg)
	require.NoError(b.t, err)
}

// deadLetters lists what is in the dead letters.
func (b *bundle) deadLetters() []*jetstream.RawStreamMsg {
	b.t.Helper()
	stream, err := b.js.Stream(b.ctx, topology.DeadLettersStream)
	require.NoError(b.t, err)
	var all []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(b.ctx, seq)
		require.NoError(b.t, err)
		all = append(all, msg)
	}
	return all
}

// put replaces a partition's recorded position.
func (b *bundle) put(partition int, p position) {
	b.t.Helper()
	kv, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(b.t, err)
	p.Version = positionVersion
	value, err := json.Marshal(p)
	require.NoError(b.t, err)
	_, err = kv.Put(b.ctx, positionKey(partition), value)
	require.NoError(b.t, err)
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	day, other := time.Unix(1, 0), time.Unix(2, 0)
	for name, c := range map[string]struct {
		p    position
		s    streamState
		want plan
	}{
		"nothing anywhere":         {position{}, streamState{created: day, first: 1, last: 0}, plan{}},
		"first start":              {position{}, streamState{created: day, first: 1, last: 9}, plan{}},
		"first start, too late":    {position{}, streamState{created: day, first: 5, last: 9}, plan{missing: &seqRange{1, 4}}},
		"at the end":               {position{revision: 1, StreamCreated: day, Done: 9, DoneDigest: 7}, streamState{created: day, first: 1, last: 9}, plan{verify: true}},
		"in the middle":            {position{revision: 1, StreamCreated: day, Done: 5, DoneDigest: 7}, streamState{created: day, first: 1, last: 9}, plan{verify: true}},
		"digest not known":         {position{revision: 1, StreamCreated: day, Done: 5}, streamState{created: day, first: 1, last: 9}, plan{}},
		"all expired":              {position{revision: 1, StreamCreated: day, Done: 9, DoneDigest: 7}, streamState{created: day, first: 1, gone: true}, plan{}},
		"next is the first":        {position{revision: 1, StreamCreated: day, Done: 5, DoneDigest: 7}, streamState{created: day, first: 6, last: 9}, plan{}},
		"retention has passed":     {position{revision: 1, StreamCreated: day, Done: 5, DoneDigest: 7}, streamState{created: day, first: 8, last: 9}, plan{missing: &seqRange{6, 7}}},
		"all gone, recreated":      {position{revision: 1, StreamCreated: day, Done: 5, DoneDigest: 7}, streamState{created: other, first: 1, gone: true}, plan{recreated: true}},
		"tail lost":                {position{revision: 1, StreamCreated: day, Done: 9, DoneDigest: 7}, streamState{created: day, first: 1, last: 8}, plan{behind: true}},
		"tail of pending lost":     {position{revision: 1, StreamCreated: day, Done: 5, Pending: &pendingRange{seqRange: seqRange{6, 9}}}, streamState{created: day, first: 1, last: 8}, plan{behind: true}},
		"pending to be read":       {position{revision: 1, StreamCreated: day, Done: 5, Pending: &pendingRange{seqRange: seqRange{6, 9}}}, streamState{created: day, first: 1, last: 9}, plan{}},
		"recreated, still shorter": {position{revision: 1, StreamCreated: day, Done: 9, DoneDigest: 7}, streamState{created: other, first: 1, last: 0}, plan{behind: true, recreated: true}},
		"recreated, long enough":   {position{revision: 1, StreamCreated: day, Done: 9, DoneDigest: 7}, streamState{created: other, first: 1, last: 9}, plan{recreated: true, verify: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, reconcile(c.p, c.s))
		})
	}
}

func TestTailLostAndDerivedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	records := make([][]byte, 301)
	for n := 1; n <= 300; n++ {
		records[n] = b.encode(0, n)
	}
	publish := func(first, last int) {
		for n := first; n <= last; n++ {
			b.publishRecord(0, records[n])
		}
		b.flush()
	}
	publish(1, 200)
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	b.waitDone(0, 200)

	// While the writer runs the stream loses its tail. (The only way to cause that is to recreate it.)
	b.recreate(0)
	publish(1, 50)
	b.waitStatus(s, 0, stateBehind)
	require.ErrorContains(t, s.Check(), "partition 0: the message log ends before the position")
	publish(51, 199)
	require.Equal(t, stateBehind, b.waitStatus(s, 0, stateBehind).state)
	publish(200, 300)
	p := b.waitDone(0, 300)
	require.Zero(t, p.LostMessages)
	b.waitStatus(s, 0, stateRunning)
	require.NoError(t, s.Check())
	require.True(t, b.stream(0).CachedInfo().Created.Equal(p.StreamCreated))
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 300)
}

func TestStreamMadeAnewWithOtherContent(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 100)
	s := b.service(cfg)
	stop := b.start(s)
	b.waitDone(0, 100)

	b.recreate(0)
	b.publish(0, 1, 150) // other IDs
	problem := b.waitStatus(s, 0, statePaused).problem
	var content *contentError
	require.ErrorAs(t, problem, &content)
	require.ErrorContains(t, s.Check(), "message 100 of MESSAGES_0")
	require.EqualValues(t, 100, b.recorded(0).Done, "the position is not set back")
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 100)
}

// The writer waits for a deleted log, and continues when it is there again with the same content.
func TestStreamDeletedAndBack(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	records := make([][]byte, 0, 150)
	for n := range 150 {
		records = append(records, b.encode(0, n+1))
	}
	publish := func(records [][]byte) {
		for _, record := range records {
			b.publishRecord(0, record)
		}
		b.flush()
	}
	publish(records[:100])
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	b.waitDone(0, 100)
	stream := b.stream(0).CachedInfo().Config
	require.NoError(t, b.js.DeleteStream(b.ctx, stream.Name))
	testkit.WaitFor(t, time.Minute, "the writer to say that there is no log", func(context.Context) error {
		problem := b.waitStatus(s, 0, stateRetrying).problem // at first that the server refuses to deliver, perhaps
		if !errors.Is(problem, jetstream.ErrStreamNotFound) {
			return problem
		}
		return nil
	})
	require.ErrorContains(t, s.Check(), "MESSAGES_0")
	_, err := b.js.CreateStream(b.ctx, stream)
	require.NoError(t, err)
	publish(records)
	p := b.waitDone(0, 150)
	require.Zero(t, p.LostMessages)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 150)
	require.Empty(t, b.deadLetters())
}

// A recreated log that begins after the position: what is missing is counted and named, nothing that
// is there is written twice or left out.
func TestStreamMadeAnewBehindThePosition(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 100)
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	b.waitDone(0, 100)
	require.NoError(t, stop())

	again := b.stream(0).CachedInfo().Config
	require.NoError(t, b.js.DeleteStream(b.ctx, again.Name))
	again.FirstSeq = 151
	_, err := b.js.CreateStream(b.ctx, again)
	require.NoError(t, err)
	b.publish(0, 151, 200)
	s = b.service(cfg)
	stop = b.start(s)
	p := b.waitDone(0, 200)
	require.Equal(t, []seqRange{{101, 150}}, p.Lost)
	require.EqualValues(t, 50, p.LostMessages)
	require.InDelta(t, 50, valueOf(t, s.metrics.partitions[0].lost), 0)
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	require.Len(t, b.deadLetters(), 1)
	require.True(t, b.stream(0).CachedInfo().Created.Equal(p.StreamCreated))
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 150, rows)
	require.EqualValues(t, 150, different)
}

// Retention takes records away while ClickHouse is not there: what the writer had read before goes in all the
// same, the rest is named.
func TestRetentionPassesWhileClickHouseIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 100
	s := b.service(cfg)
	slow := newSlowStore(s.store)
	s.store = slow
	stop := b.start(s)
	b.stopMerges(cfg)
	b.publish(0, 1, 100)
	<-slow.held
	b.publish(0, 101, 10_000) // more than the writer reads ahead: one batch, and what the client holds
	require.NoError(t, b.stream(0).Purge(b.ctx, jetstream.WithPurgeSequence(9_901)))
	close(slow.release)
	p := b.waitDone(0, 10_000)
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.Equal(t, rows, different)
	require.EqualValues(t, 10_000, rows+p.LostMessages)
	require.Positive(t, p.LostMessages)
	require.GreaterOrEqual(t, rows, uint64(200))
	named := uint64(0)
	for _, lost := range p.Lost {
		named += lost.count()
	}
	require.Equal(t, p.LostMessages, named)
}

func TestPendingRangeWithOtherContent(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 100)
	b.put(0, position{
		StreamCreated: b.stream(0).CachedInfo().Created,
		Pending:       &pendingRange{seqRange: seqRange{1, 60}, Rows: 60, Digest: 12345, Token: "t"},
	})
	s := b.service(cfg)
	stop := b.start(s)
	problem := b.waitStatus(s, 0, statePaused).problem
	require.ErrorContains(t, problem, "the pending range 1-60 of MESSAGES_0")
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 0)
}

func TestRetentionPassedThePosition(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 100)
	s := b.service(cfg)
	stop := b.start(s)
	b.waitDone(0, 100)
	require.NoError(t, stop())

	b.publish(0, 101, 200)
	require.NoError(t, b.stream(0).Purge(b.ctx, jetstream.WithPurgeSequence(151)))
	s = b.service(cfg)
	stop = b.start(s)
	p := b.waitDone(0, 200)
	require.EqualValues(t, 50, p.LostMessages)
	require.Equal(t, []seqRange{{101, 150}}, p.Lost)
	require.InDelta(t, 50, valueOf(t, s.metrics.partitions[0].lost), 0)
	require.NoError(t, stop())

	letters := b.deadLetters()
	require.Len(t, letters, 1)
	require.Equal(t, "deadletters.writer.lost", letters[0].Subject)
	require.JSONEq(t, `{"partition":0,"stream":"MESSAGES_0","first":101,"last":150}`, string(letters[0].Data))
	rows, _ := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 150, rows)
}

// TestHoleIsWaitedFor: what a power loss has taken from the middle of the log, or from its front, is not given up while the
// write-ahead log still has it.
func TestHoleIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lose func(b *bundle)
		from int // derived again from this record on
	}{
		"middle": {func(b *bundle) {
			for _, seq := range []uint64{40, 41, 60} {
				require.NoError(b.t, b.stream(0).DeleteMsg(b.ctx, seq))
			}
		}, 40},
		"front": {func(b *bundle) { require.NoError(b.t, b.stream(0).Purge(b.ctx, jetstream.WithPurgeSequence(30))) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			cfg := b.full()
			records := make([][]byte, 101)
			for n := 1; n <= 100; n++ {
				records[n] = b.encode(0, n)
				b.publishRecord(0, records[n])
				_, err := b.js.Publish(b.ctx, topology.WALSubject(0), []byte("what it was made from"))
				require.NoError(t, err)
			}
			b.flush()
			c.lose(b)
			s := b.service(cfg)
			stop := b.start(s)
			testkit.WaitFor(t, time.Minute, "the writer to wait for the sequencer", func(context.Context) error {
				if problem := b.waitStatus(s, 0, stateRetrying).problem; !errors.Is(problem, errDerivable) {
					return problem
				}
				return nil
			})
			require.ErrorContains(t, s.Check(), "waiting until the sequencer derives them again")
			require.Zero(t, b.recorded(0).LostMessages)

			require.NoError(t, broker.CutStream(b.ctx, b.js, topology.MessagesStream(0), uint64(c.from-1)))
			for n := c.from; n <= 100; n++ {
				b.publishRecord(0, records[n])
			}
			b.flush()
			require.Zero(t, b.waitDone(0, 100).LostMessages)
			require.NoError(t, stop())
			b.requireEachOnce(cfg, 100)
			require.Empty(t, b.deadLetters())
		})
	}
}

func TestRecordDeletedFromTheMiddle(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	b.publish(0, 1, 100)
	for _, seq := range []uint64{1, 40, 41, 100} {
		require.NoError(t, b.stream(0).DeleteMsg(b.ctx, seq))
	}
	b.publish(0, 101, 120)
	s := b.service(cfg)
	stop := b.start(s)
	p := b.waitDone(0, 120)
	require.Equal(t, []seqRange{{1, 1}, {40, 41}, {100, 100}}, p.Lost)
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 116, rows)
	require.EqualValues(t, 116, different)
	require.Len(t, b.deadLetters(), 3)
}

// A pending range of which records are gone cannot be read again. Whether it was inserted, ClickHouse knows.
func TestPendingRangeGone(t *testing.T) {
	t.Parallel()
	for _, inserted := range []bool{true, false} {
		for name, gone := range map[string]func(b *bundle){
			"expired": func(b *bundle) { require.NoError(b.t, b.stream(0).Purge(b.ctx, jetstream.WithPurgeSequence(31))) },
			"deleted": func(b *bundle) { require.NoError(b.t, b.stream(0).DeleteMsg(b.ctx, 25)) },
		} {
			t.Run(map[bool]string{true: "inserted", false: "not inserted"}[inserted]+"/"+name, func(t *testing.T) {
				t.Parallel()
				b := setup(t, 1)
				cfg := b.full()
				cfg.FlushRowsMax, cfg.WriterStopTimeout = 50, 10*time.Millisecond
				b.publish(0, 1, 80)
				full := cfg
				full.FlushInterval = time.Minute // the first batch ends by its rows, however slow the machine
				b.dieInInsert(full, inserted, 0)
				require.Equal(t, seqRange{1, 50}, b.recorded(0).Pending.seqRange)

				gone(b)
				stop := b.start(b.service(cfg))
				p := b.waitDone(0, 80)
				require.NoError(t, stop())
				lost := uint64(0)
				if !inserted {
					lost = map[string]uint64{"expired": 30, "deleted": 1}[name]
				}
				require.Equal(t, lost, p.LostMessages)
				rows, different := openTable(t, cfg.ClickHouseDSN).counts()
				require.Equal(t, 80-lost, rows)
				require.Equal(t, 80-lost, different)
			})
		}
	}
}

// stalling delivers nothing for the first time it is asked, as consumers have been seen to do.
type stalling struct {
	source
	calls int
}

func (s *stalling) consume(ctx context.Context, first uint64, handle handler, failed func(error)) (func(), error) {
	s.calls++
	if s.calls == 1 {
		return func() {}, nil
	}
	return s.source.consume(ctx, first, handle, failed)
}

func TestStalledConsumerIsMadeAnew(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	s := b.service(cfg)
	s.wrapSource = func(src source) source { return &stalling{source: src} }
	b.publish(0, 1, 100)
	stop := b.start(s)
	b.waitDone(0, 100)
	require.InDelta(t, 1, valueOf(t, s.metrics.partitions[0].restarts), 0)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 100)
}

func TestConsumerDeletedByTheServer(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	stop := b.start(b.service(cfg))
	b.publish(0, 1, 10)
	b.waitDone(0, 10)
	for name := range b.stream(0).ConsumerNames(b.ctx).Name() {
		require.NoError(t, b.js.DeleteConsumer(b.ctx, topology.MessagesStream(0), name))
	}
	b.publish(0, 11, 20)
	b.waitDone(0, 20)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 20)
}
