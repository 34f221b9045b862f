package sequencer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer"
	sequenceraudit "github.com/sendhouse/sendhouse/sequencer/audit"
	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"
)

const (
	clusterPartitions = 2
	clusterClients    = 16
	// answeredBetween is how many sends are answered before and after each fault.
	answeredBetween = 400
	// answerTimeout is how long a client waits before it sends again.
	answerTimeout = 2 * time.Second
)

// fleetClient sends to a deployment as ingest does, one record at a time, and again
// until it is answered; it keeps every answer.
type fleetClient struct {
	t  *testing.T
	nc *nats.Conn
	js jetstream.JetStream

	mu       sync.Mutex
	answered map[string]*message.Answer // by partition/channel/client_msg_no
	count    atomic.Int64
	progress lifecycle.Wake
}

func (c *fleetClient) run(ctx context.Context, number int) {
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return // the test is over
	}
	first := map[string]uint64{} // message_id first answered, by reply subject
	for n := 0; ctx.Err() == nil; n++ {
		partition := (number + n) % clusterPartitions
		s := sequencertest.Send(fmt.Sprintf("c%d", number), fmt.Sprintf("%d-%d", partition, n))
		data, err := message.AppendSend(nil, s)
		require.NoError(c.t, err)
		reply := fmt.Sprintf("%s.%d", inbox, n)
		if a := c.ask(ctx, sub, partition, data, reply, first); a != nil {
			c.keep(fmt.Sprintf("%d/%s/%s", partition, s.GetChannelId(), s.GetClientMsgNo()), a)
		}
	}
}

// ask sends until there is an answer. An answer to an earlier send, which was sent
// more than once, must be the one that was given first.
func (c *fleetClient) ask(ctx context.Context, sub *nats.Subscription, partition int, data []byte, reply string, first map[string]uint64) *message.Answer {
	for ctx.Err() == nil {
		// Whether it got there, the answer tells.
		_ = c.nc.PublishMsg(&nats.Msg{Subject: topology.WALSubject(partition), Data: data, Header: nats.Header{topology.HeaderReply: []string{reply}}})
		for {
			m, err := sub.NextMsg(answerTimeout)
			if err != nil {
				break
			}
			var batch message.AnswerBatch
			require.NoError(c.t, batch.UnmarshalVT(m.Data))
			a := batch.GetAnswers()[0]
			if m.Subject == reply {
				first[reply] = a.GetMessageId()
				return a
			}
			require.Equal(c.t, first[m.Subject], a.GetMessageId())
		}
	}
	return nil
}

func (c *fleetClient) keep(key string, a *message.Answer) {
	c.mu.Lock()
	c.answered[key] = a
	c.mu.Unlock()
	c.count.Add(1)
	c.progress.Signal()
}

// more waits until n more sends are answered.
func (c *fleetClient) more(n int64) {
	c.t.Helper()
	want := c.count.Load() + n
	timeout := time.After(60 * time.Second)
	for c.count.Load() < want {
		select {
		case <-c.progress:
		case <-timeout:
			require.FailNow(c.t, "no progress", "%d answers, wanted %d", c.count.Load(), want)
		}
	}
}

// Each kind of server of a cluster is killed in turn, under load: the leader of a
// write-ahead log, a follower of it, and the leader of the metadata. Nothing that
// was answered is lost, repeated or changed.
//
//nolint:paralleltest // it wants the machine for itself
func TestEndToEndCluster(t *testing.T) {
	servers := testkit.StartNATSCluster(t, testkit.NATSOptions{})
	urls := servers[0].URL + "," + servers[1].URL + "," + servers[2].URL
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	options := topology.DefaultOptions()
	options.Replicas, options.WALBytesMax, options.MessagesBytesMax = 3, 64<<20, 64<<20

	connect := func(name string) (*nats.Conn, jetstream.JetStream) {
		nc, js, err := broker.Connect(ctx, broker.Config{URL: urls, Name: name, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return nc, js
	}
	nc, js := connect("client")
	deployment, err := broker.EnsureDeployment(ctx, js, topology.Deployment{Partitions: clusterPartitions}, options)
	require.NoError(t, err)
	var cfg sequencer.Config
	_, err = config.Parse(nil, &cfg)
	require.NoError(t, err)
	for _, name := range []string{"a", "b"} {
		nc, js := connect("sequencer " + name)
		s, err := sequencer.New(cfg, sequencer.Deps{NATS: nc, Answers: nc, JetStream: js, Deployment: deployment, Replicas: 3, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
		require.NoError(t, err)
		done := make(chan error, 1)
		runCtx, stop := context.WithCancel(ctx)
		go func() { done <- s.Run(runCtx) }()
		t.Cleanup(func() { stop(); require.NoError(t, <-done) })
	}

	client := &fleetClient{t: t, nc: nc, js: js, answered: map[string]*message.Answer{}, progress: lifecycle.NewWake()}
	loadCtx, stopLoad := context.WithCancel(ctx)
	var load sync.WaitGroup
	for n := range clusterClients {
		load.Go(func() { client.run(loadCtx, n) })
	}
	client.more(answeredBetween)

	wal, err := js.Stream(ctx, topology.WALStream(0))
	require.NoError(t, err)
	for _, victim := range []struct {
		what string
		pick func(leader string) *testkit.NATSServer
	}{
		{"leader of the write-ahead log", func(leader string) *testkit.NATSServer { return byName(servers, leader, true) }},
		{"follower", func(leader string) *testkit.NATSServer { return byName(servers, leader, false) }},
		{"leader of the metadata", func(string) *testkit.NATSServer {
			return byName(servers, metaLeader(ctx, t, servers[0].MonitorURL), true)
		}},
	} {
		info, err := wal.Info(ctx)
		require.NoError(t, err)
		server := victim.pick(info.Cluster.Leader)
		t.Logf("killing the %s, %s, after %d answers", victim.what, server.Name, client.count.Load())
		server.Kill9()
		client.more(answeredBetween)
		server.Start()
		client.more(answeredBetween)
	}
	stopLoad()
	load.Wait()
	requireAnsweredOnce(ctx, t, js, deployment, client.answered)
}

func byName(servers []*testkit.NATSServer, name string, same bool) *testkit.NATSServer {
	for _, s := range servers {
		if (s.Name == name) == same {
			return s
		}
	}
	return nil
}

// metaLeader asks the monitoring endpoint.
func metaLeader(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/jsz", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	var state struct {
		Meta struct {
			Leader string `json:"leader"`
		} `json:"meta_cluster"`
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&state))
	require.NotEmpty(t, state.Meta.Leader)
	return state.Meta.Leader
}

// requireAnsweredOnce refolds every partition and finds each answered send in the
// message log, once, as it was answered.
func requireAnsweredOnce(ctx context.Context, t *testing.T, js jetstream.JetStream, deployment topology.Deployment, answered map[string]*message.Answer) {
	t.Helper()
	report := audit.NewReport()
	sequenceraudit.Audit(ctx, js, deployment, 1<<30, slog.New(slog.DiscardHandler), report)
	report.Finish(nil)
	require.NoError(t, report.Err())
	found := 0
	for partition := range deployment.Partitions {
		stream, err := js.Stream(ctx, topology.MessagesStream(partition))
		require.NoError(t, err)
		last := stream.CachedInfo().State.LastSeq
		consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		require.NoError(t, err)
		reader, err := consumer.Messages()
		require.NoError(t, err)
		seqs := map[string]uint64{}
		for range last {
			raw, err := reader.Next(jetstream.NextContext(ctx))
			require.NoError(t, err)
			var batch message.MessageBatch
			require.NoError(t, batch.UnmarshalVT(raw.Data()))
			for _, m := range batch.GetMessages() {
				seqs[m.GetChannelId()]++
				require.Equal(t, seqs[m.GetChannelId()], m.GetMessageSeq(), "channel %s", m.GetChannelId())
				key := fmt.Sprintf("%d/%s/%s", partition, m.GetChannelId(), m.GetClientMsgNo())
				if a := answered[key]; a != nil {
					require.Equal(t, a.GetMessageId(), m.GetMessageId())
					require.Equal(t, a.GetMessageSeq(), m.GetMessageSeq())
					found++
				}
			}
		}
		reader.Stop()
	}
	require.Len(t, answered, found)
	t.Logf("%d answered sends, each there once", found)
}
