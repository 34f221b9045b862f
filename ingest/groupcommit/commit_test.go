package groupcommit

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
)

func TestGroupCommitLimits(t *testing.T) {
	t.Parallel()
	b, wal := setup(t)
	p := b.p
	// Sends of known order, from one goroutine, of sizes around the limits.
	b.enqueue(send("first"))
	flying := wal.Next()
	var order []string
	for i := range 2000 {
		size := []int{1, 100, 5_000, 60_000, 300_000, 600_000}[i*i%6]
		if i > 900 {
			size = 10 // many small ones
		}
		s := send(fmt.Sprint(i))
		s.Payload = make([]byte, size)
		if p.bytes+size+1000 > p.BytesMax {
			continue
		}
		b.enqueue(s)
		order = append(order, s.GetClientMsgNo())
	}
	require.Greater(t, len(order), 1000)
	for len(order) > 0 {
		flying.Ack()
		flying = wal.Next()
		require.LessOrEqual(t, len(flying.Sends), batchSendsMax)
		if len(flying.Sends) > 1 {
			require.LessOrEqual(t, len(flying.Msg.Data), batchBytesMax)
		}
		for _, s := range flying.Sends {
			require.Equal(t, order[0], s.GetClientMsgNo())
			order = order[1:]
		}
	}
	require.Zero(t, p.sends)
	require.Zero(t, p.bytes)
}

// smallPublisher is a connection to a server with a small max_payload.
type smallPublisher struct{ publisher }

func (smallPublisher) MaxPayload() int64 { return 1 << 20 }

func TestSendLargerThanTheServerTakes(t *testing.T) {
	t.Parallel()
	b, _ := setup(t)
	b.publisher = smallPublisher{b.publisher}
	large := send("large")
	large.Payload = make([]byte, 1<<20)
	require.Equal(t, outcome.TooLarge, b.refused(large))
	b.forgotten()
}

// A silent log is tried with one batch at a time, and sends that arrive meanwhile are refused at once.
func TestStalledLog(t *testing.T) {
	t.Parallel()
	b, wal := setup(t)
	timeOut := func() {
		b.p.mu.Lock()
		b.p.inFlight.published = time.Now().Add(-time.Hour)
		b.p.mu.Unlock()
		b.p.onAckTimer()
	}
	lost := b.enqueue(send("lost"))
	silent := wal.Next()
	timeOut()
	_, became := b.await(lost)
	require.Equal(t, outcome.Unknown, became)

	for round, speaks := range []func(probe *ingesttest.Record){
		func(probe *ingesttest.Record) { probe.Ack() },
		func(*ingesttest.Record) { silent.Ack() }, // late
		func(probe *ingesttest.Record) { probe.Refuse(503, 10077, "maximum bytes exceeded") },
		func(probe *ingesttest.Record) { probe.Answer(1) },
	} {
		first := b.enqueue(send(fmt.Sprint("probe", round)))
		probe := wal.Next()
		require.Equal(t, outcome.WALStalled, b.refused(send(fmt.Sprint("refused", round))))

		speaks(probe)
		require.Eventually(t, func() bool {
			b.p.mu.Lock()
			defer b.p.mu.Unlock()
			return !b.p.stalled
		}, ingesttest.Timeout, time.Millisecond)
		second := b.enqueue(send(fmt.Sprint("taken", round)))
		if round == 1 { // the probing batch is still in flight
			b.queued(1)
			probe.Ack()
		}
		r := wal.Next()
		r.Answer(uint64(100 + round))
		answer, became := b.await(second)
		require.Equal(t, outcome.Accepted, became)
		require.EqualValues(t, 100+round, answer.MessageSeq)
		if round < 2 {
			probe.Answer(1)
		}
		b.await(first)

		// The log falls silent again.
		again := b.enqueue(send(fmt.Sprint("again", round)))
		silent = wal.Next()
		timeOut()
		_, became = b.await(again)
		require.Equal(t, outcome.Unknown, became)
	}
	b.forgotten()
}

// failingPublisher is a connection whose publishes fail.
type failingPublisher struct {
	publisher
	err error
}

func (p failingPublisher) PublishMsg(*nats.Msg) error { return p.err }

// TestPublishFailures: how errors of the client library are classified. Only a connection that breaks during a write
// leaves the outcome open.
func TestPublishFailures(t *testing.T) {
	t.Parallel()
	rows := []struct {
		err  error
		want outcome.Outcome
	}{
		{nats.ErrConnectionClosed, outcome.WALUnavailable},
		{nats.ErrConnectionDraining, outcome.WALUnavailable},
		{nats.ErrReconnectBufExceeded, outcome.WALUnavailable},
		{nats.ErrMaxPayload, outcome.TooLarge},
		{nats.ErrHeadersNotSupported, outcome.WALRefused},
		{fmt.Errorf("write tcp: %w", syscall.EPIPE), outcome.Unknown},
		{os.ErrDeadlineExceeded, outcome.Unknown},
	}
	for _, row := range rows {
		t.Run(row.err.Error(), func(t *testing.T) {
			t.Parallel()
			b, _ := setup(t)
			b.publisher = failingPublisher{b.publisher, row.err}
			_, became := b.await(b.enqueue(send("1")))
			require.Equal(t, row.want, became)
			b.forgotten()
		})
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	t.Parallel()
	b, wal := setup(t)
	twoAnswers, err := proto.Marshal(&message.AnswerBatch{Answers: []*message.Answer{{MessageId: 1}, {MessageId: 2}}})
	require.NoError(t, err)
	noID, err := proto.Marshal(&message.AnswerBatch{Answers: []*message.Answer{{MessageSeq: 1}}})
	require.NoError(t, err)
	rows := map[string][]byte{"nothing": nil, "no protobuf": []byte("\xff\xff"), "two for one": twoAnswers, "without an ID": noID}
	for name, data := range rows { //nolint:paralleltest // they share one log
		t.Run(name, func(t *testing.T) {
			ticket := b.enqueue(send(name))
			wal.Next().Say(data)
			_, became := b.await(ticket)
			require.Equal(t, outcome.Internal, became)
		})
	}
	t.Run("subjects of no batch", func(t *testing.T) {
		for _, tail := range []string{"", ".", ".r", ".r.", ".r.0", ".r.0.", ".r.9.1", ".r.-1.1", ".x.0.1", ".r.0.1.1", ".a.0.x", ".a.0.77", ".r.0.77"} {
			_ = b.nc.Publish(b.inbox.prefix+tail, []byte("x")) // the client itself rejects some of these
		}
		ticket := b.enqueue(send("after"))
		wal.Next().Answer(5)
		_, became := b.await(ticket)
		require.Equal(t, outcome.Accepted, became)
	})
	b.forgotten()
}
