package history

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

var engine *enginetest.Engine

func TestMain(m *testing.M) {
	os.Exit(enginetest.Main(m, func(e *enginetest.Engine) { engine = e }))
}

// testTimeout bounds a test; none takes this long unless it fails.
const testTimeout = 2 * time.Minute

// bundle is a service before a table of its own and a NATS server of its own, with one partition.
type bundle struct {
	t       testing.TB
	ctx     context.Context
	client  *clickhouse.Client
	nats    *broker.Embedded
	nc      *nats.Conn
	js      jetstream.JetStream
	cfg     Config
	service *Service
	url     string
	inserts int

	published uint64 // messages in the log
	records   uint64 // of the message log
	commits   uint64 // of the write-ahead log
}

type options struct {
	dsn    string // default: the engine
	config func(*Config)
}

func setup(t testing.TB, o options) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	log := slog.New(slog.DiscardHandler)
	if o.dsn == "" {
		o.dsn = engine.DSN(t)
	}
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: o.dsn}, log)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	require.NoError(t, client.Migrate(ctx))

	d := testkit.StartDeployment(t, 1)

	b := &bundle{t: t, ctx: ctx, client: client, nats: d.Server, nc: d.NATS, js: d.JetStream}
	b.cfg = Config{HistoryRequestsMax: 16, HistoryTimeout: 10 * time.Second, HistoryPageBytesMax: 8 << 20, HistoryTailBytesMax: 64 << 20}
	if o.config != nil {
		o.config(&b.cfg)
	}
	b.serveOver(d.NATS, d.JetStream)
	return b
}

// serveOver makes a service that reaches NATS over a connection.
func (b *bundle) serveOver(nc *nats.Conn, js jetstream.JetStream) {
	b.t.Helper()
	var err error
	b.service, err = New(b.cfg, Deps{
		ClickHouse: b.client, NATS: nc, JetStream: js, Partitions: 1, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	require.NoError(b.t, err)
	b.t.Cleanup(func() { require.NoError(b.t, b.service.Close()) })
	b.url = serve(b.t, b.service.Routes())
}

// serve is a listener with the routes and nothing else.
func serve(t testing.TB, routes []api.Route) string {
	t.Helper()
	mux := http.NewServeMux()
	for _, route := range routes {
		mux.HandleFunc(route.Method+" "+route.Path, route.Serve)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// at is when the messages of tests were accepted.
func at() time.Time { return time.Now().Add(-time.Hour).Truncate(time.Second) }

// sample is message seq of a group.
func sample(channel string, seq int) *message.Message {
	return &message.Message{
		ChannelId: channel, ChannelType: 2, FromUid: fmt.Sprintf("u%d", seq%3), ClientMsgNo: fmt.Sprintf("no-%d", seq), RedDot: seq%2 == 0,
		Payload: fmt.Appendf(nil, "message %d", seq), MessageSeq: uint64(seq), WalSeq: uint64(seq),
		MessageId: uint64(message.MakeID(at().Sub(message.Epoch()).Milliseconds(), 0, seq%4096)),
	}
}

// insert puts messages into the table, as one insert of its own.
func (b *bundle) insert(messages ...*message.Message) {
	b.t.Helper()
	var block clickhouse.Block
	for i, m := range messages {
		encoded, err := m.MarshalVT()
		require.NoError(b.t, err)
		require.NoError(b.t, block.Append(uint64(i+1), encoded))
	}
	b.inserts++
	require.NoError(b.t, b.client.Insert(b.ctx, &block, 0, block.Rows(), fmt.Sprint(b.inserts)))
}

// publish appends a record of messages to the message log, and the group commit that it was made from to the write-ahead log
// unless write did. It returns the partition_seq of the last.
func (b *bundle) publish(messages ...*message.Message) uint64 {
	b.t.Helper()
	if b.records++; b.commits < b.records {
		sends := make([]*message.Send, len(messages))
		for i, m := range messages {
			sends[i] = sendOf(m)
		}
		b.write(sends...)
	}
	batch := make([][]byte, len(messages))
	for i, m := range messages {
		var err error
		batch[i], err = m.MarshalVT()
		require.NoError(b.t, err)
	}
	_, err := b.js.PublishMsg(b.ctx, &nats.Msg{
		Subject: topology.MessagesSubject(0), Data: testkit.MessageBatch(b.published+1, batch...),
		Header: nats.Header{topology.HeaderContentType: {message.BatchContentType}},
	})
	require.NoError(b.t, err)
	b.published += uint64(len(messages))
	return b.published
}

// write appends a group commit to the write-ahead log, and returns its stream_seq.
func (b *bundle) write(sends ...*message.Send) uint64 {
	b.t.Helper()
	encoded, err := (&message.SendBatch{Sends: sends}).MarshalVT()
	require.NoError(b.t, err)
	ack, err := b.js.Publish(b.ctx, topology.WALSubject(0), encoded)
	require.NoError(b.t, err)
	b.commits++
	return ack.Sequence
}

// record records how far a writer is, but not in which record.
func (b *bundle) record(done uint64, created time.Time) {
	b.t.Helper()
	b.recordIn(done, 0, created)
}

// recordIn records how far a writer is.
func (b *bundle) recordIn(done, record uint64, created time.Time) {
	b.t.Helper()
	kv, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(b.t, err)
	_, err = kv.Put(b.ctx, "range.0", fmt.Appendf(nil, `{"version":1,"writer":"w","stream_created":%q,"done":%d,"done_record":%d}`, created.Format(time.RFC3339Nano), done, record))
	require.NoError(b.t, err)
}

func (b *bundle) streamCreated() time.Time {
	b.t.Helper()
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(b.t, err)
	return stream.CachedInfo().Created
}

// got is an answer as a client sees it.
type got struct {
	status int
	header http.Header
	raw    string
	Code   string `json:"code"`
	Msg    string `json:"msg"`
	Field  string `json:"field"`
	Reason int    `json:"reason"`

	Start    uint64      `json:"start_message_seq"`
	End      uint64      `json:"end_message_seq"`
	More     int         `json:"more"`
	Messages []gotSynced `json:"messages"`

	State       string `json:"state"`
	MessageID   int64  `json:"message_id"`
	MessageSeq  uint64 `json:"message_seq"`
	ClientMsgNo string `json:"client_msg_no"`
	Complete    *bool  `json:"complete"`
	Hint        string `json:"hint"`
}

type gotSynced struct {
	MessageSeq uint64 `json:"message_seq"`
	Payload    []byte `json:"payload"`
}

func (g got) seqs() []uint64 {
	seqs := []uint64{}
	for _, m := range g.Messages {
		seqs = append(seqs, m.MessageSeq)
	}
	return seqs
}

func (b *bundle) do(req *http.Request) got {
	b.t.Helper()
	res, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	g := got{status: res.StatusCode, header: res.Header, raw: string(raw)}
	require.NoError(b.t, json.Unmarshal(raw, &g), string(raw))
	return g
}

// sync posts a body to /channel/messagesync.
func (b *bundle) sync(body string) got {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.url+pathSync, strings.NewReader(body))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/json")
	return b.do(req)
}

// status asks for a send of u1 to group g, unless more says otherwise.
func (b *bundle) status(clientMsgNo string, more ...string) got {
	b.t.Helper()
	values := url.Values{"client_msg_no": {clientMsgNo}, "from_uid": {"u1"}, "channel_id": {"g"}, "channel_type": {"2"}}
	for i := 0; i < len(more); i += 2 {
		values.Set(more[i], more[i+1])
	}
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.url+pathStatus+"?"+values.Encode(), http.NoBody)
	require.NoError(b.t, err)
	return b.do(req)
}

// answers is nil when a page is answered 200.
func (b *bundle) answers(body string) func(context.Context) error {
	return func(context.Context) error {
		if g := b.sync(body); g.status != http.StatusOK {
			return fmt.Errorf("%d %s", g.status, g.raw)
		}
		return nil
	}
}
