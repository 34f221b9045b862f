package ingest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

func TestNoAckInTime(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.AckTimeout = shortTimeout }})
	wal := b.script(0)

	first := b.async(send("g", "1"))
	silent := wal.next()
	second := b.async(send("g", "2"))
	g := receive(t, first)
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "outcome_unknown", g.code())
	requireShape(t, g)
	// The slot is free again, and the batch that was given up stays that.
	r := wal.next()
	silent.ack()
	silent.answer(1)
	r.ack()
	r.answer(2)
	g = receive(t, second)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	require.Contains(t, g.raw, `"message_seq":2`)
}

func TestNoSequencer(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.AckTimeout, c.AnswerTimeout = 200*time.Millisecond, 200*time.Millisecond }})
	g := b.post(send("g", "1"))
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	requireShape(t, g)
	require.Contains(t, []string{"no_answer", "outcome_unknown"}, g.code())
	require.Contains(t, g.body["msg"], "same client_msg_no is safe")
	require.NotContains(t, g.body["msg"], "made for this request")

	g = b.post(with(``))
	require.Contains(t, g.body["msg"], "made for this request", "the caller cannot repeat a number that it does not know")
	requireForgotten(t, b)
}

// A log that says nothing is tried with one batch at a time, and what comes meanwhile is told so at once.
func TestStalledLog(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.AckTimeout, c.AnswerTimeout, c.DrainTimeout, c.WriteTimeout = time.Hour, time.Hour, time.Hour, 3*time.Hour
	}})
	wal := b.script(0)
	p := b.service.partitions[0]
	timeOut := func() {
		p.mu.Lock()
		p.inFlight.published = time.Now().Add(-time.Hour)
		p.mu.Unlock()
		p.onAckTimer()
	}
	lost := b.async(send("g", "lost"))
	silent := wal.next()
	timeOut()
	require.Equal(t, "outcome_unknown", receive(t, lost).code())

	for round, speaks := range []func(probe *record){
		func(probe *record) { probe.ack() },
		func(*record) { silent.ack() }, // late
		func(probe *record) { probe.refuse(503, 10077, "maximum bytes exceeded") },
		func(probe *record) { probe.answer(1) },
	} {
		first := b.async(send("g", fmt.Sprint("probe", round)))
		probe := wal.next()
		refused := b.post(send("g", fmt.Sprint("refused", round)))
		require.Equal(t, "wal_stalled", refused.code())
		require.Equal(t, "3", refused.header.Get("Retry-After"))
		require.Contains(t, refused.body["msg"], "nothing was written")
		requireShape(t, refused)

		speaks(probe)
		require.Eventually(t, func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return !p.stalled
		}, testTimeout, time.Millisecond)
		second := b.async(send("g", fmt.Sprint("taken", round)))
		if round == 1 { // the probe is in flight yet
			b.queued(0, 1)
			probe.ack()
		}
		r := wal.next()
		r.answer(uint64(100 + round))
		require.Contains(t, receive(t, second).raw, fmt.Sprintf(`"message_seq":%d`, 100+round))
		if round < 2 {
			probe.answer(1)
		}
		receive(t, first)

		// It falls silent again.
		again := b.async(send("g", fmt.Sprint("again", round)))
		silent = wal.next()
		timeOut()
		require.Equal(t, "outcome_unknown", receive(t, again).code())
	}
	requireForgotten(t, b)
}

func requireForgotten(t *testing.T, b *bundle) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, p := range b.service.partitions {
			p.mu.Lock()
			left := len(p.waiting) + len(p.queue) + p.sends + p.bytes + p.unended
			if p.oldest() != nil {
				left++
			}
			p.mu.Unlock()
			if left != 0 {
				return false
			}
		}
		return true
	}, testTimeout, time.Millisecond)
}

func TestLateAnswerFindsNobody(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.AckTimeout, c.AnswerTimeout = shortTimeout, shortTimeout
	}})
	wal := b.script(0)
	for round := range 2 {
		first := b.async(send("g", fmt.Sprint("late", round)))
		late := wal.next()
		late.ack()
		require.Equal(t, "no_answer", receive(t, first).code())

		second := b.async(send("g", fmt.Sprint("good", round)))
		r := wal.next()
		late.answer(1) // while another request waits, on recycled memory
		late.answer(1)
		r.answer(uint64(100 + round))
		require.Contains(t, receive(t, second).raw, fmt.Sprintf(`"message_seq":%d`, 100+round))
	}
	requireForgotten(t, b)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	rows := []struct {
		code, errCode int
		description   string
		want          string
	}{
		{503, 10077, "maximum bytes exceeded", "wal_full"},
		{503, 10077, "maximum messages exceeded", "wal_full"},
		{503, 10077, "write sends: no space left on device", "outcome_unknown"},
		{500, 10001, "something went wrong", "outcome_unknown"},
		{503, 10023, "insufficient resources", "wal_full"},
		{500, 10047, "insufficient storage resources available", "wal_full"},
		{503, 10008, "JetStream system temporarily unavailable", "wal_unavailable"},
		{400, 10054, "message size exceeds maximum allowed", "wal_refused"},
	}
	for _, row := range rows { //nolint:paralleltest // they share one log
		t.Run(row.description, func(t *testing.T) {
			c := b.async(send("g", row.description))
			wal.next().refuse(row.code, row.errCode, row.description)
			g := receive(t, c)
			require.Equal(t, http.StatusServiceUnavailable, g.status)
			require.Equal(t, row.want, g.code())
			requireShape(t, g)
		})
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	twoAnswers, err := proto.Marshal(&message.AnswerBatch{Answers: []*message.Answer{{MessageId: 1}, {MessageId: 2}}})
	require.NoError(t, err)
	noID, err := proto.Marshal(&message.AnswerBatch{Answers: []*message.Answer{{MessageSeq: 1}}})
	require.NoError(t, err)
	rows := map[string][]byte{"nothing": nil, "no protobuf": []byte("\xff\xff"), "two for one": twoAnswers, "without an ID": noID}
	for name, data := range rows { //nolint:paralleltest // they share one log
		t.Run(name, func(t *testing.T) {
			c := b.async(send("g", name))
			wal.next().say(data)
			g := receive(t, c)
			require.Equal(t, http.StatusInternalServerError, g.status)
			require.Equal(t, "internal", g.code())
			requireShape(t, g)
		})
	}
	t.Run("subjects of no batch", func(t *testing.T) {
		for _, tail := range []string{"", ".", ".r", ".r.", ".r.0", ".r.0.", ".r.9.1", ".r.-1.1", ".x.0.1", ".r.0.1.1", ".a.0.x", ".a.0.77", ".r.0.77"} {
			_ = b.nc.Publish(b.service.inbox.prefix+tail, []byte("x")) // some of these the client itself refuses
		}
		c := b.async(send("g", "after"))
		r := wal.next()
		r.answer(5)
		require.Equal(t, http.StatusOK, receive(t, c).status)
	})
}

func TestNoStream(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	g := b.post(send("g", "1"))
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "wal_unavailable", g.code())
}

func TestStreamFull(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	_, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: topology.WALStream(0), Subjects: []string{topology.WALSubject(0)}, MaxBytes: 2000, Discard: jetstream.DiscardNew,
	})
	require.NoError(t, err)
	b.sequence()
	full := false
	for i := 0; i < 100 && !full; i++ {
		g := b.post(send("g", fmt.Sprint(i)))
		if g.status != http.StatusOK {
			require.Equal(t, "wal_full", g.code(), g.raw)
			requireShape(t, g)
			full = true
		}
	}
	require.True(t, full)
}

func TestClientThatGoesAway(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	first := b.async(send("g", "0"))
	r := wal.next()

	ctx, goAway := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/message/send", strings.NewReader(send("g", "gone")))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	gone := make(chan error, 1)
	go func() {
		_, err := b.do(req)
		gone <- err
	}()
	b.queued(0, 1)
	other := b.async(send("g", "stays"))
	b.queued(0, 2)
	goAway()
	require.Error(t, receive(t, gone))
	r.answer(1)
	require.Equal(t, http.StatusOK, receive(t, first).status)
	both := wal.next()
	require.Len(t, both.sends, 2, "what was accepted is committed")
	both.answer(2)
	g := receive(t, other)
	require.Contains(t, g.raw, `"client_msg_no":"stays"`)
	require.Contains(t, g.raw, `"message_seq":3`)
	requireForgotten(t, b)
}

// failingPublisher is a connection whose publishes fail.
type failingPublisher struct {
	*nats.Conn
	err error
}

func (p failingPublisher) PublishMsg(*nats.Msg) error { return p.err }

// TestPublishFailures: what an error of the client library means for the send. Only a
// connection that breaks in the middle of a write leaves it open.
func TestPublishFailures(t *testing.T) {
	t.Parallel()
	rows := []struct {
		err  error
		want string
	}{
		{nats.ErrConnectionClosed, "wal_unavailable"},
		{nats.ErrConnectionDraining, "wal_unavailable"},
		{nats.ErrReconnectBufExceeded, "wal_unavailable"},
		{nats.ErrMaxPayload, "too_large"},
		{nats.ErrHeadersNotSupported, "wal_refused"},
		{fmt.Errorf("write tcp: %w", syscall.EPIPE), "outcome_unknown"},
		{os.ErrDeadlineExceeded, "outcome_unknown"},
	}
	for _, row := range rows {
		t.Run(row.err.Error(), func(t *testing.T) {
			t.Parallel()
			b := setup(t, one())
			b.service.publisher = failingPublisher{b.nc, row.err}
			g := b.post(send("g", "1"))
			require.Equal(t, row.want, g.code())
			requireShape(t, g)
			requireForgotten(t, b)
		})
	}
}
