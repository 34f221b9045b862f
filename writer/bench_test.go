package writer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const benchBlock = 100_000

// naivePart: the first attempt reads one in so many of the rows.
const naivePart = 4

// benchRows is how many messages are replayed; WRITER_BENCH_ROWS sets another number.
func benchRows(b *testing.B) int {
	if text := os.Getenv("WRITER_BENCH_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(b, err)
		return n
	}
	return 500_000
}

// benchRecords makes records of some 250 bytes over 10,000 channels.
func benchRecords(b *testing.B, n int) [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Since(message.Epoch()).Milliseconds()
	records := make([][]byte, n)
	for i := range records {
		m := &message.Message{
			ChannelId: fmt.Sprintf("channel-%05d", i%10_000), ChannelType: 2, FromUid: fmt.Sprintf("user-%05d", random.IntN(5000)),
			ClientMsgNo: fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()), RedDot: true,
			Payload:   fmt.Appendf(nil, `{"type":1,"content":"%016x message number %d, as people write them in a chat, not long but not short"}`, random.Uint64(), i),
			MessageId: uint64(message.MakeID(now+int64(i/10), 0, i%10)), MessageSeq: uint64(i/10_000 + 1), WalSeq: uint64(i/100 + 1), WalIndex: uint32(i % 100),
		}
		var err error
		records[i], err = m.MarshalVT()
		require.NoError(b, err)
	}
	return records
}

// publishCommits writes a message log in records of a hundred messages, as group commits under load make them, and as the messages' places in
// the write-ahead log say.
func (b *bundle) publishCommits(messages [][]byte) {
	for first := 0; first < len(messages); first += 100 {
		b.publishBatch(0, testkit.MessageBatch(uint64(first+1), messages[first:min(first+100, len(messages))]...))
	}
	b.flush()
}

// BenchmarkReplay replays a message log into ClickHouse, and beside it, in the same round, inserts the same
// rows, decoded before, from memory, in blocks of the same size, and lets a writer as one would first write it
// read a part of the log. "of_memory" and "of_naive" are the speed of the first by those of the others.
//
//	WRITER_BENCH_ROWS=2000000 make microbench BENCH=Replay PKG=./writer
func BenchmarkReplay(b *testing.B) {
	records := benchRecords(b, benchRows(b))
	t := setup(b, 1)
	t.publishCommits(records)
	round := 0
	dsn := engine.Named
	var memory, replay, naive time.Duration // of all rounds
	var allocs uint64
	rounds := 0
	for b.Loop() {
		round, rounds = round+1, rounds+1
		memory += insertFromMemory(b, t, dsn(fmt.Sprintf("memory_%d", round)), records)
		took, made := replayOnce(b, t, dsn(fmt.Sprintf("replay_%d", round)), len(records))
		replay, allocs = replay+took, allocs+made
		naive += naivePart * naiveOnce(b, t, dsn(fmt.Sprintf("naive_%d", round)), len(records)/naivePart)
	}
	rows := float64(len(records) * rounds)
	b.ReportMetric(rows/replay.Seconds(), "rows/s")
	b.ReportMetric(rows/memory.Seconds(), "memory_rows/s")
	b.ReportMetric(memory.Seconds()/replay.Seconds(), "of_memory")
	b.ReportMetric(naive.Seconds()/replay.Seconds(), "of_naive")
	b.ReportMetric(float64(allocs)/rows, "allocs/row")
}

// insertFromMemory inserts blocks that are there already, one after another.
func insertFromMemory(b *testing.B, t *bundle, dsn string, records [][]byte) time.Duration {
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: dsn}, t.log)
	require.NoError(b, err)
	defer client.Close()
	require.NoError(b, client.Migrate(t.ctx))
	var blocks []*clickhouse.Block
	for i, record := range records {
		if i%benchBlock == 0 {
			blocks = append(blocks, &clickhouse.Block{})
		}
		require.NoError(b, blocks[len(blocks)-1].Append(uint64(i+1), record))
	}
	runtime.GC()
	begun := time.Now()
	for i, block := range blocks {
		require.NoError(b, client.Insert(t.ctx, block, 0, block.Rows(), strconv.Itoa(i)))
	}
	return time.Since(begun)
}

// replayOnce runs a writer from the start of the log to its end.
func replayOnce(b *testing.B, t *bundle, dsn string, rows int) (took time.Duration, allocs uint64) {
	t.put(0, position{})
	cfg := t.config(dsn)
	cfg.FlushInterval = 500 * time.Millisecond
	s := t.service(cfg)
	client, err := clickhouse.Open(cfg.Config, t.log)
	require.NoError(b, err)
	require.NoError(b, client.Migrate(context.Background()))
	require.NoError(b, client.Close())
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := time.Now()
	stop := t.start(s)
	t.waitDone(0, uint64(rows))
	took = time.Since(begun)
	runtime.ReadMemStats(&after)
	require.NoError(b, stop())
	have, different := openTable(b, dsn).counts()
	require.EqualValues(b, rows, have)
	require.EqualValues(b, rows, different)
	return took, after.Mallocs - before.Mallocs
}

// nowhere takes every insert at once.
type nowhere struct{}

func (nowhere) Insert(context.Context, *clickhouse.Block, int, int, string) error { return nil }

func (nowhere) CountRange(context.Context, int, uint64, uint64) (uint64, error) { return 0, nil }

func (nowhere) Messages(context.Context, clickhouse.Span) (map[clickhouse.MessageAt]bool, error) {
	return nil, nil
}

// processorTime is what this process has used. Wall time says little on a machine with neighbours.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkRead reads and decodes a message log and inserts it nowhere: what the writer itself can do.
func BenchmarkRead(b *testing.B) {
	records := benchRecords(b, benchRows(b))
	t := setup(b, 1)
	t.publishCommits(records)
	for b.Loop() {
		t.put(0, position{})
		s := t.service(t.config(engine.DSN(b)))
		s.store = nowhere{}
		begun, busy := time.Now(), processorTime(b)
		stop := t.start(s)
		t.waitDone(0, uint64(len(records)))
		b.ReportMetric(float64(len(records))/time.Since(begun).Seconds(), "rows/s")
		b.ReportMetric(float64((processorTime(b)-busy).Nanoseconds())/float64(len(records)), "cpu-ns/row")
		require.NoError(b, stop())
	}
}
