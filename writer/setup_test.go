package writer

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// bundle is a NATS server with a deployment of one or more partitions.
type bundle struct {
	t          testing.TB
	ctx        context.Context
	js         jetstream.JetStream
	nats       *broker.Embedded
	dir        string
	partitions int
	deployment topology.Deployment
	ids        []message.IDClock
	last       map[int]uint64 // place of the last message published, by partition
	records    uint64         // published by publishRecords
	log        *slog.Logger
}

func setup(t testing.TB, partitions int) *bundle {
	t.Helper()
	return setupAt(t, partitions, "127.0.0.1:0", filepath.Join(t.TempDir(), "nats"))
}

func setupAt(t testing.TB, partitions int, addr, dir string) *bundle {
	t.Helper()
	limit := 5 * time.Minute // a slow machine needs two for the longest
	if _, measured := t.(*testing.B); measured {
		limit = time.Hour
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	log := testLogger(t)
	embedded, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: dir, Addr: addr, StoreBytesMax: 64 << 30, Logger: log})
	require.NoError(t, err)
	t.Cleanup(embedded.Shutdown)
	nc, js, err := broker.Connect(ctx, broker.Config{URL: embedded.URL(), Options: []nats.Option{embedded.Operator()}, Name: t.Name(), Logger: log})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	asked := topology.DefaultDeployment()
	asked.Partitions = partitions
	options := topology.DefaultOptions()
	options.MessagesAsync = true // as 'sendhouse up' has it
	options.WALBytesMax, options.MessagesBytesMax = config.ByteSize(partitions)*64<<20, config.ByteSize(partitions)*4<<30
	deployment, err := broker.EnsureDeployment(ctx, js, asked, options)
	require.NoError(t, err)
	b := &bundle{t: t, ctx: ctx, js: js, nats: embedded, dir: dir, partitions: partitions, deployment: deployment, log: log}
	for p := range partitions {
		clock, err := message.NewIDClock(p, 0)
		require.NoError(t, err)
		b.ids = append(b.ids, clock)
	}
	return b
}

// testLogger shows the log of a failed test with -v, and all of it with WRITER_TEST_LOG set.
func testLogger(t testing.TB) *slog.Logger {
	if os.Getenv("WRITER_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name())
}

// encode makes message number n (from 1) of a partition, as the sequencer would, for a record of its own.
func (b *bundle) encode(partition, n int) []byte {
	return b.encodeAt(partition, n, message.Identity{WALSeq: uint64(n)})
}

// encodeAt is encode for a place in the write-ahead log.
func (b *bundle) encodeAt(partition, n int, at message.Identity) []byte {
	send := &message.Send{
		ChannelId:   fmt.Sprintf("channel-%d-%d", partition, n%7),
		ChannelType: 2,
		FromUid:     fmt.Sprintf("user-%d", n%11),
		ClientMsgNo: fmt.Sprintf("no-%d-%d", partition, n),
		Payload:     fmt.Appendf(nil, `{"type":1,"content":"message %d"}`, n),
	}
	encoded, err := send.MarshalVT()
	require.NoError(b.t, err)
	at.ID, at.Seq = b.ids[partition].Next(time.Now().UnixMilli()), uint64(n/7+1)
	return message.AppendMessage(nil, encoded, at)
}

// publish appends records first to last to a partition's message log.
func (b *bundle) publish(partition, first, last int) {
	b.t.Helper()
	for n := first; n <= last; n++ {
		b.publishRecord(partition, b.encode(partition, n))
	}
	b.flush()
}

// publishRecords appends messages first to last to the log of partition 0, in records of one, of many and of none, as group commits make them.
func (b *bundle) publishRecords(first, last int) {
	b.t.Helper()
	sizes := []int{1, 40, 0, 130, 7}
	for n := first; n <= last; {
		size := min(sizes[b.records%uint64(len(sizes))], last-n+1)
		b.records++
		b.publishBatch(0, b.batch(b.records, n, size))
		n += size
	}
	b.flush()
}

// batch makes a record of the messages from first on.
func (b *bundle) batch(record uint64, first, size int) []byte {
	if size == 0 {
		return testkit.EmptyMessageBatch(uint64(first), b.ids[0].Last())
	}
	messages := make([][]byte, size)
	for i := range messages {
		messages[i] = b.encodeAt(0, first+i, message.Identity{WALSeq: record, WALIndex: uint32(i)})
	}
	return testkit.MessageBatch(uint64(first), messages...)
}

// publishRecord appends a record of one message. Its place is what it says of the write-ahead log; one that cannot be read is behind the last.
func (b *bundle) publishRecord(partition int, encoded []byte) {
	b.t.Helper()
	if b.last == nil {
		b.last = make(map[int]uint64)
	}
	b.last[partition]++
	if seq, err := message.ViewWALSeq(encoded); err == nil && seq > 0 {
		b.last[partition] = seq
	}
	b.publishBatch(partition, testkit.MessageBatch(b.last[partition], encoded))
}

// publishBatch appends a record with the headers that the sequencer sets.
func (b *bundle) publishBatch(partition int, batch []byte) {
	b.t.Helper()
	_, err := b.js.PublishMsgAsync(&nats.Msg{
		Subject: topology.MessagesSubject(partition),
		Data:    batch,
		Header: nats.Header{
			topology.HeaderContentType: {message.BatchContentType},
			"Nats-Expected":            {"1000000"}, // as long as the real header, which would be refused by a recreated stream
		},
	}, jetstream.WithStallWait(time.Minute))
	require.NoError(b.t, err)
}

func (b *bundle) flush() {
	b.t.Helper()
	select {
	case <-b.js.PublishAsyncComplete():
	case <-b.ctx.Done():
		require.FailNow(b.t, "publishing did not end")
	}
}

func (b *bundle) config(dsn string) Config {
	return Config{
		Config:            clickhouse.Config{ClickHouseDSN: dsn},
		ClickHouseMigrate: true,
		FlushRowsMax:      100_000,
		FlushBytesMax:     32 << 20,
		FlushInterval:     50 * time.Millisecond,
		WriterBytesMax:    256 << 20,
		WriterInsertsMax:  8,
		WriterLeaseTTL:    6 * time.Second,
		WriterStopTimeout: 10 * time.Second,
	}
}

// service makes a writer that waits little.
func (b *bundle) service(cfg Config) *Service {
	b.t.Helper()
	s, err := New(cfg, Deps{JetStream: b.js, Partitions: b.partitions, Deployment: b.deployment, Logger: b.log, Registerer: prometheus.NewRegistry()})
	require.NoError(b.t, err)
	s.timing.watch, s.timing.backoff = 50*time.Millisecond, lifecycle.Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond}
	return s
}

// start runs a writer until the answer is called, which returns what Run returned.
func (b *bundle) start(s *Service) (stop func() error) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.t.Cleanup(cancel)
	select {
	case <-s.Ready():
	case err := <-ended:
		require.NoError(b.t, err, "the writer ended at once")
	}
	return func() error {
		cancel()
		return <-ended
	}
}

// recorded is the position in the bucket.
func (b *bundle) recorded(partition int) position {
	b.t.Helper()
	kv, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(b.t, err)
	p, err := (&positions{kv: kv, key: positionKey(partition), timeout: 30 * time.Second}).load(b.ctx)
	require.NoError(b.t, err)
	return p
}

// waitDone waits until a partition's recorded position has reached a sequence.
func (b *bundle) waitDone(partition int, done uint64) position {
	b.t.Helper()
	b.waitDoneOr(partition, done, nil)
	return b.recorded(partition)
}

// waitDoneOr is waitDone that ends early, with true, when other is closed.
func (b *bundle) waitDoneOr(partition int, done uint64, other <-chan struct{}) bool {
	b.t.Helper()
	kv, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(b.t, err)
	watcher, err := kv.Watch(b.ctx, positionKey(partition))
	require.NoError(b.t, err)
	defer watcher.Stop() //nolint:errcheck // the test is over
	for {
		select {
		case <-other:
			return true
		case <-b.ctx.Done():
			require.FailNow(b.t, "position not reached", "want %d, have %+v", done, b.recorded(partition))
		case entry := <-watcher.Updates():
			if entry == nil {
				continue
			}
			if p := b.recorded(partition); p.Done >= done && p.Pending == nil {
				return false
			}
		}
	}
}

// requireEachOnce checks that the table has the messages 1 to last of partition 0, each in one row.
func (b *bundle) requireEachOnce(cfg Config, last uint64) {
	b.t.Helper()
	rows, different := openTable(b.t, cfg.ClickHouseDSN).counts()
	require.Equal(b.t, last, different, "different partition_seqs")
	require.Equal(b.t, last, rows, "rows")
}

// stopMerges keeps the table as it was inserted: a merge would hide that a row was there twice.
func (b *bundle) stopMerges(cfg Config) {
	b.t.Helper()
	tb := openTable(b.t, cfg.ClickHouseDSN)
	require.NoError(b.t, tb.conn.Exec(b.ctx, "SYSTEM STOP MERGES "+tb.name))
}

// table is a connection for looking into a table.
type table struct {
	t    testing.TB
	conn driver.Conn
	name string
}

func openTable(t testing.TB, dsn string) *table {
	t.Helper()
	options, err := chgo.ParseDSN(dsn)
	require.NoError(t, err)
	database := options.Auth.Database
	options.Auth.Database = ""
	conn, err := chgo.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &table{t: t, conn: conn, name: database + ".messages"}
}

// counts counts the rows, and the different places in the message log among them.
func (tb *table) counts() (rows, different uint64) {
	tb.t.Helper()
	require.NoError(tb.t, tb.conn.QueryRow(context.Background(),
		"SELECT count(), uniqExact(partition, partition_seq) FROM "+tb.name).Scan(&rows, &different))
	return rows, different
}

// valueOf is the value of a counter or gauge.
func valueOf(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	require.NoError(t, m.Write(&out))
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}
