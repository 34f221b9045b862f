package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// Shared with the tests of ingest's packages.
const (
	example     = ingesttest.Example
	testTimeout = ingesttest.Timeout
)

type syncBuffer = ingesttest.Log

func with(more string) string              { return ingesttest.With(more) }
func quoted(s string) string               { return ingesttest.Quoted(s) }
func benchBody(i int) string               { return ingesttest.BenchBody(i) }
func tokenLine(scopes, text string) string { return ingesttest.TokenLine(scopes, text) }
func tokenFile(t *testing.T, content string) string {
	t.Helper()
	return ingesttest.TokenFile(t, content)
}

// bundle is a service on a real server.
type bundle struct {
	t        testing.TB
	server   *broker.Embedded
	dataDir  string
	addr     string
	nc       *nats.Conn
	js       jetstream.JetStream
	service  *Service
	registry *prometheus.Registry
	owned    bool               // the partitions have leases
	stop     context.CancelFunc // begins the drain
	ended    chan error         // the result of Run
	client   *http.Client
	url      string
}

type options struct {
	config     func(*Config)
	topology   func(*topology.Options)
	partitions int
	noStreams  bool
	noOwners   bool // no sequencer has a lease
	routes     []api.Route
	log        *slog.Logger // nil: discards
	tracer     *tracing.Tracer
}

// defaultConfig is the configuration that kong builds from the tags, on a free port.
func defaultConfig(t testing.TB) Config {
	t.Helper()
	var cfg Config
	require.NoError(t, kong.ApplyDefaults(&cfg))
	cfg.APIAddr = "127.0.0.1:0"
	return cfg
}

func setup(t testing.TB, o options) *bundle {
	t.Helper()
	b := &bundle{t: t, dataDir: t.TempDir()}
	b.startServer("127.0.0.1:0")
	b.addr = b.server.URL()[len("nats://"):]

	// Over TCP, so that tests can stop the server under the connection.
	b.nc = connect(t, b.server)
	js, err := jetstream.New(b.nc)
	require.NoError(t, err)
	b.js = js
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if o.partitions == 0 {
		o.partitions = 2
	}
	if o.noStreams { // except that of the permissions, which every send needs
		for _, bucket := range topology.DefaultOptions().BucketConfigs() {
			_, err := js.CreateKeyValue(ctx, bucket)
			require.NoError(t, err)
		}
	} else {
		settings := topology.DefaultOptions()
		settings.WALBytesMax, settings.MessagesBytesMax = 256<<20, 256<<20
		if o.topology != nil {
			o.topology(&settings)
		}
		_, err = broker.EnsureDeployment(ctx, js, topology.Deployment{Partitions: o.partitions}, settings)
		require.NoError(t, err)
		kv, err := lease.OpenBucket(ctx, js, topology.LeaseBucket, 1, nil)
		require.NoError(t, err)
		for partition := range o.partitions {
			if b.owned = !o.noOwners; b.owned {
				b.lease(kv, partition, "{}")
			}
		}
	}

	cfg := defaultConfig(t)
	// A slow machine must not fail tests: those about waiting set these timeouts themselves.
	cfg.WaitMax, cfg.AckTimeout, cfg.AnswerTimeout = testTimeout, testTimeout, testTimeout
	cfg.DrainTimeout, cfg.WriteTimeout = testTimeout, 2*testTimeout
	if o.config != nil {
		o.config(&cfg)
	}
	if o.log == nil {
		o.log = logger(t)
	}
	b.registry = prometheus.NewRegistry()
	b.service, err = New(cfg, Deps{NATS: b.nc, JetStream: b.js, Partitions: topology.Partitions(o.partitions), Logger: o.log, Registerer: b.registry, Tracer: o.tracer, Routes: o.routes})
	require.NoError(t, err)
	b.run()
	return b
}

// lease writes the lease of a partition with a status. It counts as renewed for the duration of a test.
func (b *bundle) lease(kv jetstream.KeyValue, partition int, status string) {
	b.t.Helper()
	_, err := kv.Put(b.t.Context(), fmt.Sprint("sequencer.partition.", partition), []byte(`{"instance":"a","ttl_ms":3600000,"status":`+status+`}`))
	require.NoError(b.t, err)
}

func (b *bundle) run() {
	b.t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(b.t.Context()))
	b.stop, b.ended = stop, make(chan error, 1)
	go func() { b.ended <- b.service.Run(ctx) }()
	select {
	case <-b.service.Ready():
	case err := <-b.ended:
		require.NoError(b.t, err)
	}
	if b.owned {
		testkit.WaitFor(b.t, testTimeout, "the leases to be seen", func(context.Context) error {
			return b.service.commits.CheckPartitions()
		})
	}
	b.url = "http://" + b.service.Addr().String()
	b.client = &http.Client{Timeout: testTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	b.t.Cleanup(func() {
		b.client.CloseIdleConnections()
		stop()
		select {
		case err := <-b.ended:
			require.NoError(b.t, err)
		case <-time.After(testTimeout):
			b.t.Error("Run did not return")
		}
	})
}

func (b *bundle) startServer(addr string) {
	b.t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: b.dataDir, Addr: addr, StoreBytesMax: 8 << 30, Logger: logger(b.t)})
	require.NoError(b.t, err)
	b.server = server
	b.t.Cleanup(server.Shutdown)
}

func connect(t testing.TB, server *broker.Embedded) *nats.Conn {
	t.Helper()
	nc, _, err := broker.Connect(t.Context(), broker.Config{URL: server.URL(), Name: t.Name(), Options: []nats.Option{server.Operator()}, Logger: logger(t)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// logger discards logs; tests that need them set their own.
func logger(testing.TB) *slog.Logger { return slog.New(slog.DiscardHandler) }

// got is a response as a client sees it.
type got struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

func (g got) code() string {
	code, _ := g.body["code"].(string)
	return code
}

func (b *bundle) post(body string) got {
	b.t.Helper()
	g, err := b.try(body)
	require.NoError(b.t, err)
	return g
}

// try is post for goroutines that must not end the test.
func (b *bundle) try(body string) (got, error) {
	req, err := http.NewRequest(http.MethodPost, b.url+"/message/send", bytes.NewReader([]byte(body)))
	if err != nil {
		return got{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	return b.do(req)
}

func (b *bundle) do(req *http.Request) (got, error) {
	res, err := b.client.Do(req)
	if err != nil {
		return got{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return got{}, err
	}
	g := got{status: res.StatusCode, header: res.Header, raw: string(raw)}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&g.body); err != nil {
		return g, fmt.Errorf("%d %q: %w", res.StatusCode, raw, err)
	}
	return g, nil
}

// send returns a body with these parts.
func send(channel, clientMsgNo string) string {
	return fmt.Sprintf(`{"from_uid":"u","channel_id":%q,"channel_type":2,"client_msg_no":%q,"payload":"aGk="}`, channel, clientMsgNo)
}

// sequencer is a tiny sequencer that uses the real protocol: it reads the write-ahead log in order and answers each batch.
type sequencer struct {
	b         *bundle
	partition int

	mu      sync.Mutex
	seqs    map[string]uint64
	seen    map[string]seen
	batches []walBatch
	clock   message.IDClock
}

type seen struct {
	content string
	answer  *message.Answer
}

type walBatch struct {
	seq   uint64
	bytes int
	sends []*message.Send
}

// sequence starts a sequencer for every partition.
func (b *bundle) sequence() []*sequencer {
	b.t.Helper()
	var all []*sequencer
	for p := range int(b.service.topology) {
		clock, err := message.NewIDClock(p, 0)
		require.NoError(b.t, err)
		s := &sequencer{b: b, partition: p, seqs: make(map[string]uint64), seen: make(map[string]seen), clock: clock}
		consumer, err := b.js.OrderedConsumer(b.t.Context(), topology.WALStream(p), jetstream.OrderedConsumerConfig{})
		require.NoError(b.t, err)
		running, err := consumer.Consume(s.fold)
		require.NoError(b.t, err)
		b.t.Cleanup(running.Stop)
		all = append(all, s)
	}
	return all
}

func (s *sequencer) fold(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		s.b.t.Errorf("metadata: %v", err)
		return
	}
	var batch message.SendBatch
	if err := proto.Unmarshal(msg.Data(), &batch); err != nil {
		s.b.t.Errorf("batch: %v", err)
		return
	}
	s.mu.Lock()
	answers := &message.AnswerBatch{}
	for _, one := range batch.GetSends() {
		answers.Answers = append(answers.Answers, s.answer(one, meta.Timestamp))
	}
	s.batches = append(s.batches, walBatch{seq: meta.Sequence.Stream, bytes: len(msg.Data()), sends: batch.GetSends()})
	s.mu.Unlock()
	data, err := proto.Marshal(answers)
	if err != nil {
		s.b.t.Errorf("answers: %v", err)
		return
	}
	if err := s.b.nc.Publish(msg.Headers().Get(topology.HeaderReply), data); err != nil && !s.b.nc.IsReconnecting() {
		s.b.t.Logf("reply: %v", err)
	}
}

func (s *sequencer) answer(one *message.Send, at time.Time) *message.Answer {
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(one)
	if err != nil {
		s.b.t.Errorf("send: %v", err)
	}
	key := fmt.Sprintf("%d/%s/%s/%s", one.GetChannelType(), one.GetChannelId(), one.GetFromUid(), one.GetClientMsgNo())
	if earlier, ok := s.seen[key]; ok {
		outcome := message.Outcome_OUTCOME_DUPLICATE
		if earlier.content != string(content) {
			outcome = message.Outcome_OUTCOME_CONFLICT
		}
		return &message.Answer{MessageId: earlier.answer.GetMessageId(), MessageSeq: earlier.answer.GetMessageSeq(), Outcome: outcome}
	}
	a := &message.Answer{MessageId: uint64(s.clock.Next(at.UnixMilli()))}
	if !one.GetNoPersist() {
		channel := fmt.Sprintf("%d/%s", one.GetChannelType(), one.GetChannelId())
		s.seqs[channel]++
		a.MessageSeq = s.seqs[channel]
	}
	s.seen[key] = seen{content: string(content), answer: a}
	return a
}

type (
	scripted = ingesttest.Script
	record   = ingesttest.Record
)

func (b *bundle) script(partition int) *scripted {
	b.t.Helper()
	return ingesttest.NewScript(b.t, connect(b.t, b.server), partition)
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	return ingesttest.Receive(t, c)
}

// async posts in the background.
func (b *bundle) async(body string) <-chan got {
	c := make(chan got, 1)
	go func() {
		g, err := b.try(body)
		if err != nil {
			b.t.Errorf("post: %v", err)
		}
		c <- g
	}()
	return c
}

// queued waits until n sends wait in partition p. A queue that fills signals nothing, so it polls.
func (b *bundle) queued(p, n int) {
	b.t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		have := b.service.commits.Load(p).Sends
		if have == n {
			return
		}
		require.True(b.t, time.Now().Before(deadline), "%d of %d sends are queued", have, n)
		runtime.Gosched()
	}
}
