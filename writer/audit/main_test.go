package audit_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer"
	"github.com/sendhouse/sendhouse/writer/audit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

var engine *enginetest.Engine

func TestMain(m *testing.M) {
	os.Exit(enginetest.Main(m, func(e *enginetest.Engine) { engine = e }))
}

// bundle is a broker with a deployment of one partition, and a writer into a table.
type bundle struct {
	t      testing.TB
	ctx    context.Context
	js     jetstream.JetStream
	config writer.Config
	client *clickhouse.Client
	plain  driver.Conn
	table  string
	ids    message.IDClock

	published uint64 // messages in the log
	commits   uint64 // records in the log
}

func setup(t testing.TB) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	log := slog.New(slog.DiscardHandler)
	dsn := engine.DSN(t)
	b := &bundle{t: t, ctx: ctx, js: testkit.StartDeployment(t, 1).JetStream}
	_, err := config.Parse([]string{"--clickhouse-dsn=" + dsn, "--flush-interval=20ms"}, &b.config)
	require.NoError(t, err)
	b.client, err = clickhouse.Open(b.config.Config, log)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.client.Close()) })
	b.table = b.client.Database() + ".messages"
	parsed, err := chgo.ParseDSN(dsn)
	require.NoError(t, err)
	parsed.Auth.Database = ""
	b.plain, err = chgo.Open(parsed)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.plain.Close()) })
	b.ids, err = message.NewIDClock(0, 0)
	require.NoError(t, err)
	return b
}

// publish appends messages first to last, as the sequencer would, each in a record of its own. Every tenth expires after so many seconds.
func (b *bundle) publish(first, last int, expire uint32) {
	b.t.Helper()
	for n := first; n <= last; n++ {
		b.publishRecord(b.encode(n, 0, expire))
	}
	<-b.js.PublishAsyncComplete()
}

// encode makes message n, for a place in the record that comes next.
func (b *bundle) encode(n, place int, expire uint32) []byte {
	b.t.Helper()
	send := &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint(n), Payload: fmt.Appendf(nil, "payload %d", n)}
	if n%10 == 0 {
		send.Expire = expire
	}
	encoded, err := send.MarshalVT()
	require.NoError(b.t, err)
	return message.AppendMessage(nil, encoded, message.Identity{
		ID: b.ids.Next(time.Now().UnixMilli()), Seq: uint64(n), WALSeq: b.commits + 1, WALIndex: uint32(place),
	})
}

// publishCommits appends messages first to last in records of so many, over and over, as group commits make them.
func (b *bundle) publishCommits(first, last int, sizes ...int) {
	b.t.Helper()
	for n := first; n <= last; {
		size := min(sizes[0], last-n+1)
		sizes = append(sizes[1:], sizes[0])
		encoded := make([][]byte, size)
		for i := range encoded {
			encoded[i] = b.encode(n+i, i, 0)
		}
		b.publishRecord(encoded...)
		n += size
	}
	<-b.js.PublishAsyncComplete()
}

// publishRecord appends a record of messages, or of none.
func (b *bundle) publishRecord(encoded ...[]byte) {
	b.t.Helper()
	batch := testkit.MessageBatch(b.published+1, encoded...)
	if len(encoded) == 0 {
		batch = testkit.EmptyMessageBatch(b.published+1, b.ids.Last())
	}
	b.published += uint64(len(encoded))
	b.commits++
	_, err := b.js.PublishAsync(topology.MessagesSubject(0), batch, jetstream.WithStallWait(time.Minute))
	require.NoError(b.t, err)
}

// write runs a writer until it is done up to a message.
func (b *bundle) write(until uint64) {
	b.t.Helper()
	s, err := writer.New(b.config, writer.Deps{JetStream: b.js, Partitions: 1, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	testkit.WaitFor(b.t, time.Minute, "the writer", func(ctx context.Context) error {
		recorded, err := writer.Done(ctx, b.js, 0)
		if err == nil && recorded.Done < until {
			err = fmt.Errorf("done %d of %d", recorded.Done, until)
		}
		return err
	})
	cancel()
	require.NoError(b.t, <-ended)
}

func (b *bundle) exec(statement string) {
	b.t.Helper()
	require.NoError(b.t, b.plain.Exec(b.ctx, statement))
}

// compare compares the partition.
func (b *bundle) compare() ([]string, audit.Compared) {
	b.t.Helper()
	part, err := audit.New(b.js, b.client, 1, slog.New(slog.DiscardHandler)).Compare(b.ctx, 0)
	require.NoError(b.t, err)
	require.Equal(b.t, len(part.First), int(part.Differences), "%v", part.First)
	return part.First, *part.Details.(*audit.Compared)
}
