// Package sequencertest runs sequencers over the streams of a broker in the same process.
package sequencertest

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
	"github.com/sendhouse/sendhouse/sequencer"
	"github.com/sendhouse/sendhouse/sequencer/checkpoint"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/natslog"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// Patience is how long a test waits for what must come.
const Patience = 20 * time.Second

// Harness is a broker with the streams of a deployment, a client that writes
// records as ingest does, and sequencers over them.
type Harness struct {
	T          testing.TB
	Ctx        context.Context //nolint:containedctx // of one test
	NC         *nats.Conn
	JS         jetstream.JetStream
	Asked      *testkit.Deployment
	Deployment topology.Deployment
	Config     sequencer.Config
	Tracer     *tracing.Tracer
	Admit      func(ctx context.Context, partition int) error

	inbox   string
	answers chan *nats.Msg
	records int
}

// Setup starts a broker for one partition.
func Setup(t testing.TB) *Harness {
	t.Helper()
	return SetupPartitions(t, 1)
}

// SetupPartitions starts a broker for several partitions.
func SetupPartitions(t testing.TB, partitions int) *Harness {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	d := testkit.StartDeployment(t, partitions)
	h := &Harness{T: t, Ctx: ctx, NC: d.NATS, JS: d.JetStream, Asked: d, Deployment: d.Deployment, answers: make(chan *nats.Msg, 1024)}
	_, err := config.Parse(nil, &h.Config)
	require.NoError(t, err)
	h.inbox = h.NC.NewInbox()
	_, err = h.NC.ChanSubscribe(h.inbox+".*", h.answers)
	require.NoError(t, err)
	return h
}

// Ensure makes the streams again that a test has deleted.
func (h *Harness) Ensure() {
	h.T.Helper()
	h.Asked.Ensure(h.T)
}

// Start runs a sequencer; the returned function stops it and waits.
func (h *Harness) Start() (*sequencer.Service, func()) {
	s := h.Service()
	return s, h.Run(s)
}

// Service makes a sequencer that does not run yet.
func (h *Harness) Service() *sequencer.Service {
	h.T.Helper()
	s, err := sequencer.New(h.Config, sequencer.Deps{NATS: h.NC, Answers: h.NC, JetStream: h.JS, Deployment: h.Deployment, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Tracer: h.Tracer, Admit: h.Admit})
	require.NoError(h.T, err)
	return s
}

// Run runs a sequencer; the returned function stops it and waits.
func (h *Harness) Run(s *sequencer.Service) func() {
	ctx, cancel := context.WithCancel(h.Ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := func() {
		cancel()
		require.NoError(h.T, <-done)
		done <- nil
	}
	h.T.Cleanup(stop)
	return stop
}

// Send is a send to a group channel.
func Send(channel, no string) *message.Send {
	return &message.Send{ChannelId: channel, ChannelType: 2, FromUid: "u", ClientMsgNo: no, Payload: []byte("payload of " + no)}
}

// Publish writes one record, durable when it returns, and returns the subject that
// its answer comes on.
func (h *Harness) Publish(sends ...*message.Send) string {
	h.T.Helper()
	return h.PublishWith(0, "", sends...)
}

// PublishTo is Publish in another partition than 0.
func (h *Harness) PublishTo(partition int, sends ...*message.Send) string {
	h.T.Helper()
	return h.PublishWith(partition, "", sends...)
}

// PublishTraced is Publish with the header of sends that are traced.
func (h *Harness) PublishTraced(traced string, sends ...*message.Send) string {
	h.T.Helper()
	return h.PublishWith(0, traced, sends...)
}

// PublishWith is Publish to a partition, with the header of sends that are traced.
func (h *Harness) PublishWith(partition int, traced string, sends ...*message.Send) string {
	h.T.Helper()
	var data []byte
	for _, s := range sends {
		var err error
		data, err = message.AppendSend(data, s)
		require.NoError(h.T, err)
	}
	h.records++
	reply := fmt.Sprintf("%s.%d", h.inbox, h.records)
	header := nats.Header{topology.HeaderReply: []string{reply}}
	if traced != "" {
		header[topology.HeaderTrace] = []string{traced}
	}
	_, err := h.JS.PublishMsg(h.Ctx, &nats.Msg{Subject: topology.WALSubject(partition), Data: data, Header: header})
	require.NoError(h.T, err)
	return reply
}

// Answer waits for the answer on a subject; others are dropped.
func (h *Harness) Answer(subject string) []*message.Answer {
	h.T.Helper()
	timeout := time.After(Patience)
	for {
		select {
		case m := <-h.answers:
			if m.Subject != subject {
				continue
			}
			var batch message.AnswerBatch
			require.NoError(h.T, batch.UnmarshalVT(m.Data))
			return batch.GetAnswers()
		case <-timeout:
			require.FailNow(h.T, "no answer", subject)
		}
	}
}

// Ask publishes one record and waits for its answer.
func (h *Harness) Ask(sends ...*message.Send) []*message.Answer {
	h.T.Helper()
	return h.Answer(h.Publish(sends...))
}

// Messages reads the message log until it has n messages.
func (h *Harness) Messages(n uint64) []*message.Message {
	h.T.Helper()
	ctx, cancel := context.WithTimeout(h.Ctx, Patience)
	defer cancel()
	consumer, err := h.JS.OrderedConsumer(ctx, topology.MessagesStream(0), jetstream.OrderedConsumerConfig{})
	require.NoError(h.T, err)
	reader, err := consumer.Messages()
	require.NoError(h.T, err)
	defer reader.Stop()
	var all []*message.Message
	for record := 1; uint64(len(all)) < n; record++ {
		raw, err := reader.Next(jetstream.NextContext(ctx))
		require.NoError(h.T, err, "after %d of %d messages", len(all), n)
		meta, err := raw.Metadata()
		require.NoError(h.T, err)
		require.EqualValues(h.T, record, meta.Sequence.Stream)
		require.Equal(h.T, message.BatchContentType, raw.Headers().Get("Content-Type"))
		require.Equal(h.T, "messages.0", raw.Subject())
		var batch message.MessageBatch
		require.NoError(h.T, batch.UnmarshalVT(raw.Data()))
		require.EqualValues(h.T, len(all)+1, batch.GetFirst(), "record %d", record)
		for _, m := range batch.GetMessages() {
			require.Equal(h.T, meta.Sequence.Stream, m.GetWalSeq(), "both logs count alike")
		}
		all = append(all, batch.GetMessages()...)
	}
	return all
}

// Refold is what the message log must hold: the write-ahead log folded from the
// start.
func (h *Harness) Refold() []*message.Message {
	state, err := fold.New(h.Params())
	require.NoError(h.T, err)
	logs := natslog.New(h.JS, 0)
	wal, err := logs.WALBounds(h.Ctx)
	require.NoError(h.T, err)
	reader, err := logs.ReadWAL(h.Ctx, 1)
	require.NoError(h.T, err)
	defer reader.Stop()
	var all []*message.Message
	for state.WALSeq() < wal.Last {
		r, err := reader.Next(h.Ctx)
		require.NoError(h.T, err)
		effects, err := state.Fold(r.Record, nil)
		if !errors.Is(err, fold.ErrMalformed) {
			require.NoError(h.T, err)
		}
		for _, e := range effects {
			if e.PartitionSeq == 0 {
				continue
			}
			m := new(message.Message)
			require.NoError(h.T, m.UnmarshalVT(message.AppendMessage(nil, e.Send, e.Identity)))
			all = append(all, m)
		}
	}
	return all
}

// RequireDerived holds the message log against the refolded write-ahead log.
func (h *Harness) RequireDerived() {
	h.T.Helper()
	want := h.Refold()
	got := h.Messages(uint64(len(want)))
	for i := range want {
		require.True(h.T, want[i].EqualVT(got[i]), "message %d: want %v, got %v", i+1, want[i], got[i])
	}
}

// Put writes a record into the message log.
func (h *Harness) Put(record []byte) {
	h.T.Helper()
	_, err := h.JS.Publish(h.Ctx, topology.MessagesSubject(0), record)
	require.NoError(h.T, err)
}

// DeleteMessageLog deletes the message log of partition 0.
func (h *Harness) DeleteMessageLog() {
	h.T.Helper()
	require.NoError(h.T, h.JS.DeleteStream(h.Ctx, topology.MessagesStream(0)))
}

// Keeper returns a keeper over a partition of its own that has folded all that is in
// the log and brought it into the message log.
func (h *Harness) Keeper(now func() time.Time) *runner.Keeper {
	caughtUp := make(chan struct{})
	p := h.Partition(now, func() { close(caughtUp) })
	ctx, cancel := context.WithCancel(h.Ctx)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, Patience) }()
	<-caughtUp
	cancel() // Run hands over what is derived
	require.NoError(h.T, <-done)
	k := p.Keeper()
	require.NoError(h.T, k.Look(h.Ctx))
	return k
}

// Partition returns a partition that has not recovered.
func (h *Harness) Partition(now func() time.Time, caughtUp func()) *runner.Partition {
	logs, err := natslog.Open(h.NC, h.JS, 0, natslog.Options{Answers: h.NC})
	require.NoError(h.T, err)
	return runner.New(h.Config.Config, h.Params(), runner.Deps{
		Logs: logs, Checkpoints: h.Checkpoints(), Logger: slog.New(slog.DiscardHandler),
		Metrics: runner.NewMetrics(prometheus.NewRegistry()).Partition(0), Now: now, MayWrite: func() bool { return true }, CaughtUp: caughtUp,
	})
}

// Checkpoints are those of partition 0.
func (h *Harness) Checkpoints() *checkpoint.Store {
	store, err := checkpoint.Open(h.Ctx, h.JS, 0)
	require.NoError(h.T, err)
	return store
}

// Recovered is the record up to which a checkpoint is good.
func (h *Harness) Recovered() uint64 {
	p := h.Partition(time.Now, func() {})
	require.NoError(h.T, p.Recover(h.Ctx))
	return p.Progress().WALSeq
}

// Refusal waits until a running sequencer refuses partition 0, and returns why.
func (h *Harness) Refusal(s *sequencer.Service) error {
	h.T.Helper()
	var problem error
	testkit.WaitFor(h.T, Patience, "the partition is refused", func(context.Context) error {
		if problem = s.Check(); !runner.Permanent(problem) {
			return errors.New("it is not")
		}
		return nil
	})
	return problem
}

// Refuses starts a sequencer that must refuse, and returns why.
func (h *Harness) Refuses() error {
	h.T.Helper()
	s, stop := h.Start()
	defer stop()
	return h.Refusal(s)
}

// Answered has a sequencer make n messages of one channel, stops it, and returns the answers.
func (h *Harness) Answered(n int) []*message.Answer {
	h.T.Helper()
	_, stop := h.Start()
	var answers []*message.Answer
	for i := range n {
		answers = append(answers, h.Ask(Send("c", strconv.Itoa(i)))...)
	}
	h.Messages(uint64(n))
	stop()
	return answers
}

// Objects is the object store of the checkpoints.
func (h *Harness) Objects() jetstream.ObjectStore {
	h.T.Helper()
	store, err := h.JS.ObjectStore(h.Ctx, topology.CheckpointBucket)
	require.NoError(h.T, err)
	return store
}

// Params are the parameters of the fold of partition 0.
func (h *Harness) Params() fold.Params {
	return fold.Params{DedupWindow: h.Deployment.DedupWindow, DedupEntriesMax: h.Deployment.DedupEntriesMax}
}
