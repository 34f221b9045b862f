package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// harness is a broker with the streams of one partition, a client that writes
// records as ingest does, and sequencers over them.
type harness struct {
	t          testing.TB
	ctx        context.Context
	nc         *nats.Conn
	js         jetstream.JetStream
	asked      *testkit.Deployment
	deployment topology.Deployment
	config     Config
	inbox      string
	answers    chan *nats.Msg
	records    int
	tracer     *tracing.Tracer
}

func setup(t testing.TB) *harness {
	t.Helper()
	return setupPartitions(t, 1)
}

func setupPartitions(t testing.TB, partitions int) *harness {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	d := testkit.StartDeployment(t, partitions)
	h := &harness{t: t, ctx: ctx, nc: d.NATS, js: d.JetStream, asked: d, deployment: d.Deployment, answers: make(chan *nats.Msg, 1024)}
	_, err := config.Parse(nil, &h.config)
	require.NoError(t, err)
	h.inbox = h.nc.NewInbox()
	_, err = h.nc.ChanSubscribe(h.inbox+".*", h.answers)
	require.NoError(t, err)
	return h
}

// ensure makes the streams anew that a test has deleted.
func (h *harness) ensure() {
	h.t.Helper()
	h.asked.Ensure(h.t)
}

// start runs a sequencer; the returned function stops it and waits.
func (h *harness) start() (*Service, func()) {
	s := h.service()
	return s, h.run(s)
}

// service makes a sequencer that does not run yet.
func (h *harness) service() *Service {
	h.t.Helper()
	s, err := New(h.config, Deps{NATS: h.nc, Answers: h.nc, JetStream: h.js, Deployment: h.deployment, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Tracer: h.tracer})
	require.NoError(h.t, err)
	return s
}

// run runs a sequencer; the returned function stops it and waits.
func (h *harness) run(s *Service) func() {
	ctx, cancel := context.WithCancel(h.ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := func() {
		cancel()
		require.NoError(h.t, <-done)
		done <- nil
	}
	h.t.Cleanup(stop)
	return stop
}

func send(channel, no string) *message.Send {
	return &message.Send{ChannelId: channel, ChannelType: 2, FromUid: "u", ClientMsgNo: no, Payload: []byte("payload of " + no)}
}

// publish writes one record, durable when it returns, and gives the subject that
// its answer comes on.
func (h *harness) publish(sends ...*message.Send) string {
	h.t.Helper()
	return h.publishWith(0, "", sends...)
}

// publishTo is publish in another partition than 0.
func (h *harness) publishTo(partition int, sends ...*message.Send) string {
	h.t.Helper()
	return h.publishWith(partition, "", sends...)
}

// publishTraced is publish with the header of sends that are traced.
func (h *harness) publishTraced(traced string, sends ...*message.Send) string {
	h.t.Helper()
	return h.publishWith(0, traced, sends...)
}

func (h *harness) publishWith(partition int, traced string, sends ...*message.Send) string {
	h.t.Helper()
	var data []byte
	for _, s := range sends {
		var err error
		data, err = message.AppendSend(data, s)
		require.NoError(h.t, err)
	}
	h.records++
	reply := fmt.Sprintf("%s.%d", h.inbox, h.records)
	header := nats.Header{topology.HeaderReply: []string{reply}}
	if traced != "" {
		header[topology.HeaderTrace] = []string{traced}
	}
	_, err := h.js.PublishMsg(h.ctx, &nats.Msg{Subject: topology.WALSubject(partition), Data: data, Header: header})
	require.NoError(h.t, err)
	return reply
}

// answer waits for the answer on a subject; others are dropped.
func (h *harness) answer(subject string) []*message.Answer {
	h.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case m := <-h.answers:
			if m.Subject != subject {
				continue
			}
			var batch message.AnswerBatch
			require.NoError(h.t, batch.UnmarshalVT(m.Data))
			return batch.GetAnswers()
		case <-timeout:
			require.FailNow(h.t, "no answer", subject)
		}
	}
}

func (h *harness) ask(sends ...*message.Send) []*message.Answer {
	h.t.Helper()
	return h.answer(h.publish(sends...))
}

// folded has a sequencer make n messages of one channel, and stops it.
func (h *harness) folded(n int) {
	h.t.Helper()
	_, stop := h.start()
	for i := range n {
		h.ask(send("c", strconv.Itoa(i)))
	}
	h.messages(uint64(n))
	stop()
}

// messages reads the message log until it has n messages.
func (h *harness) messages(n uint64) []*message.Message {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, patience)
	defer cancel()
	consumer, err := h.js.OrderedConsumer(ctx, topology.MessagesStream(0), jetstream.OrderedConsumerConfig{})
	require.NoError(h.t, err)
	reader, err := consumer.Messages()
	require.NoError(h.t, err)
	defer reader.Stop()
	var all []*message.Message
	for record := 1; uint64(len(all)) < n; record++ {
		raw, err := reader.Next(jetstream.NextContext(ctx))
		require.NoError(h.t, err, "after %d of %d messages", len(all), n)
		meta, err := raw.Metadata()
		require.NoError(h.t, err)
		require.EqualValues(h.t, record, meta.Sequence.Stream)
		require.Equal(h.t, message.BatchContentType, raw.Headers().Get("Content-Type"))
		require.Equal(h.t, "messages.0", raw.Subject())
		var batch message.MessageBatch
		require.NoError(h.t, batch.UnmarshalVT(raw.Data()))
		require.EqualValues(h.t, len(all)+1, batch.GetFirst(), "record %d", record)
		for _, m := range batch.GetMessages() {
			require.Equal(h.t, meta.Sequence.Stream, m.GetWalSeq(), "both logs count alike")
		}
		all = append(all, batch.GetMessages()...)
	}
	return all
}

// refold is what the message log must hold: the write-ahead log folded from the
// start.
func (h *harness) refold() []*message.Message {
	state, err := fold.New(fold.Params{DedupWindow: h.deployment.DedupWindow, DedupEntriesMax: h.deployment.DedupEntriesMax})
	require.NoError(h.t, err)
	logs, err := openLogs(h.nc, h.nc, h.js, 0, false)
	require.NoError(h.t, err)
	wal, err := logs.WALBounds(h.ctx)
	require.NoError(h.t, err)
	reader, err := logs.ReadWAL(h.ctx, 1)
	require.NoError(h.t, err)
	defer reader.Stop()
	var all []*message.Message
	for state.WALSeq() < wal.Last {
		r, err := reader.Next(h.ctx)
		require.NoError(h.t, err)
		effects, err := state.Fold(r.Record, nil)
		if !errors.Is(err, fold.ErrMalformed) {
			require.NoError(h.t, err)
		}
		for _, e := range effects {
			if e.Output == 0 {
				continue
			}
			m := new(message.Message)
			require.NoError(h.t, m.UnmarshalVT(message.AppendMessage(nil, e.Send, e.Identity)))
			all = append(all, m)
		}
	}
	return all
}

// requireDerived holds the message log against the refolded write-ahead log.
func (h *harness) requireDerived() {
	h.t.Helper()
	want := h.refold()
	got := h.messages(uint64(len(want)))
	for i := range want {
		require.True(h.t, want[i].EqualVT(got[i]), "message %d: want %v, got %v", i+1, want[i], got[i])
	}
}
