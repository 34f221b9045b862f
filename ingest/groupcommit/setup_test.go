package groupcommit

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// bundle is a committer of one partition on a real server without a stream: a Script plays the log and the sequencer.
type bundle struct {
	*Committer
	t testing.TB
	p *partition
}

func setup(t testing.TB) (*bundle, *ingesttest.Script) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: t.TempDir(), Addr: "127.0.0.1:0", StoreBytesMax: 1 << 30, Logger: log})
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	connect := func() *nats.Conn {
		nc, _, err := broker.Connect(t.Context(), broker.Config{URL: server.URL(), Name: t.Name(), Options: []nats.Option{server.Operator()}, Logger: log})
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return nc
	}
	nc := connect()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	// Timers that a test does not fire itself must not interfere.
	c, err := New(Config{AckTimeout: time.Hour, SendsMax: 8192, BytesMax: 32 << 20, WaitMax: ingesttest.Timeout},
		Deps{NATS: nc, JetStream: js, Partitions: 1, Logger: log, Registerer: prometheus.NewRegistry()})
	require.NoError(t, err)
	stop, err := c.Start(context.WithoutCancel(t.Context()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stop()) })
	return &bundle{Committer: c, t: t, p: c.partitions[0]}, ingesttest.NewScript(t, connect(), 0)
}

// send returns a small send with this client_msg_no.
func send(clientMsgNo string) *message.Send {
	return &message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: clientMsgNo, Payload: []byte("x")}
}

// enqueue enqueues a send that must be accepted.
func (b *bundle) enqueue(s *message.Send) Ticket {
	b.t.Helper()
	ticket, p := b.Enqueue(0, s, s.SizeVT(), nil)
	require.True(b.t, p.OK(), p.Message())
	return ticket
}

// refused enqueues a send that must be refused, and returns why.
func (b *bundle) refused(s *message.Send) outcome.Outcome {
	b.t.Helper()
	_, p := b.Enqueue(0, s, s.SizeVT(), nil)
	require.False(b.t, p.OK())
	return p.Outcome
}

// await waits for the outcome of a send.
func (b *bundle) await(ticket Ticket) (Answer, outcome.Outcome) {
	b.t.Helper()
	return ticket.Wait(b.t.Context(), ingesttest.Timeout)
}

// queued waits until n sends wait. A queue that fills signals nothing, so it polls.
func (b *bundle) queued(n int) {
	b.t.Helper()
	for deadline := time.Now().Add(ingesttest.Timeout); b.Load(0).Sends != n; runtime.Gosched() {
		require.True(b.t, time.Now().Before(deadline), "%d of %d sends are queued", b.Load(0).Sends, n)
	}
}

// forgotten checks that the partition keeps nothing of answered sends.
func (b *bundle) forgotten() {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		b.p.mu.Lock()
		defer b.p.mu.Unlock()
		return len(b.p.waiting)+len(b.p.queue)+b.p.sends+b.p.bytes+b.p.unended == 0 && b.p.oldest() == nil && len(b.p.order) == 0
	}, ingesttest.Timeout, time.Millisecond)
}
