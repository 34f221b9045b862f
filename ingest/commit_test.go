package ingest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// shortTimeout is for tests in which one request must time out and another must not, on a loaded machine.
const shortTimeout = 2 * time.Second

// Limits of a group commit.
const batchSendsMax, batchBytesMax = 1024, 512 << 10

func one() options { return options{partitions: 1, noStreams: true} }

func TestAnswerBeforeAck(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)

	first := b.async(send("g", "1"))
	r1 := wal.Next()
	second := b.async(send("g", "2"))
	b.queued(0, 1)
	r1.Answer(7) // proves that it is durable, so the next one is published
	require.Contains(t, receive(t, first).raw, `"message_seq":7`)
	r2 := wal.Next()
	r1.Ack() // late, and ignored
	third := b.async(send("g", "3"))
	b.queued(0, 1)
	r2.Answer(8)
	require.Contains(t, receive(t, second).raw, `"message_seq":8`)
	r3 := wal.Next()
	r3.Ack()
	r3.Answer(9)
	require.Contains(t, receive(t, third).raw, `"message_seq":9`)
}

func TestGroupCommitGathersWhileOneIsInFlight(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)

	var answers []<-chan got
	answers = append(answers, b.async(send("g", "0")))
	r := wal.Next()
	require.Len(t, r.Sends, 1, "a lone send leaves at once")
	const more = batchSendsMax + 10
	for i := range more {
		answers = append(answers, b.async(send("g", fmt.Sprint(i+1))))
	}
	b.queued(0, more)
	require.Empty(t, wal.Records, "one publish in flight")
	r.Ack()
	full := wal.Next()
	require.Len(t, full.Sends, batchSendsMax)
	full.Ack()
	rest := wal.Next()
	require.Len(t, rest.Sends, 10)
	rest.Ack()
	// Each request gets its own answer, whichever batch is answered first.
	rest.Answer(2000)
	r.Answer(1)
	full.Answer(1000)
	want := make(map[string]uint64)
	for first, r := range map[uint64]*record{1: r, 1000: full, 2000: rest} {
		for i, s := range r.Sends {
			want[s.GetClientMsgNo()] = first + uint64(i)
		}
	}
	for _, c := range answers {
		g := receive(t, c)
		require.Equal(t, fmt.Sprint(want[g.body["client_msg_no"].(string)]), fmt.Sprint(g.body["message_seq"]))
	}
}

// TestManyAtOnce uses the real log: each request gets its own answer, and every send is in the log once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 3})
	sequencers := b.sequence()
	const clients, each, channels = 64, 25, 40
	var mu sync.Mutex
	seqs := make(map[string]map[string]string) // channel → message_seq → client_msg_no
	ids := make(map[string]bool)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				channel, no := fmt.Sprintf("c%d", (c*31+i)%channels), fmt.Sprintf("%d-%d", c, i)
				g, err := b.try(send(channel, no))
				if err != nil || g.status != http.StatusOK {
					t.Errorf("%v %s", err, g.raw)
					return
				}
				mu.Lock()
				if seqs[channel] == nil {
					seqs[channel] = make(map[string]string)
				}
				seqs[channel][fmt.Sprint(g.body["message_seq"])] = no
				ids[fmt.Sprint(g.body["message_id"])] = true
				mu.Unlock()
				if g.body["client_msg_no"] != no {
					t.Errorf("asked %s, answered %s", no, g.raw)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, ids, clients*each)
	total := 0
	for p, s := range sequencers {
		s.mu.Lock()
		have := make(map[string]uint64)
		for _, batch := range s.batches {
			require.LessOrEqual(t, len(batch.sends), batchSendsMax)
			require.LessOrEqual(t, batch.bytes, batchBytesMax)
			for _, one := range batch.sends {
				total++
				require.Equal(t, p, topology.Partitions(3).Of(one.GetChannelId(), message.ChannelType(one.GetChannelType())))
				have[one.GetChannelId()]++
				require.Equal(t, one.GetClientMsgNo(), seqs[one.GetChannelId()][fmt.Sprint(have[one.GetChannelId()])])
			}
		}
		s.mu.Unlock()
	}
	require.Equal(t, clients*each, total)
}

func TestOverloaded(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.QueueSendsMax = 3 }})
	wal := b.script(0)
	answers := []<-chan got{b.async(send("g", "0"))}
	r := wal.Next()
	for i := range 3 {
		answers = append(answers, b.async(send("g", fmt.Sprint(i+1))))
	}
	b.queued(0, 3)
	g := b.post(send("g", "one too many"))
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "overloaded", g.code())
	requireShape(t, g)
	r.Answer(1)
	wal.Next().Answer(2)
	for _, c := range answers {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.RequestsMax = 1 }})
	wal := b.script(0)
	first := b.async(send("g", "0"))
	r := wal.Next()
	g := b.post(send("g", "1"))
	require.Equal(t, "overloaded", g.code())
	r.Answer(1)
	require.Equal(t, http.StatusOK, receive(t, first).status)
}

func TestLargeSendGoesAlone(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.PayloadBytesMax, c.BodyBytesMax = 4<<20, 16<<20
	}})
	wal := b.script(0)
	first := b.async(send("g", "0"))
	r := wal.Next()
	large := strings.Repeat("aaaa", 1<<20/3)
	second := b.async(with(`"client_msg_no":"large","payload":"` + large + `"`))
	b.queued(0, 1)
	third := b.async(send("g", "small"))
	b.queued(0, 2)
	r.Answer(1)
	alone := wal.Next()
	require.Len(t, alone.Sends, 1)
	require.Greater(t, len(alone.Msg.Data), batchBytesMax)
	alone.Answer(2)
	wal.Next().Answer(3)
	for _, c := range []<-chan got{first, second, third} {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
}

// TestEnqueueRace runs everything that can end a batch concurrently, under the race detector. Every request must get its
// own answer or a failure.
func TestEnqueueRace(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.AckTimeout, c.AnswerTimeout = 20*time.Millisecond, 20*time.Millisecond
	}})
	wal := b.script(0)
	stop, done := make(chan struct{}), make(chan struct{})
	var answered atomic.Int64
	go func() {
		defer close(done)
		var late []*record
		for i := 0; ; i++ {
			var r *record
			select {
			case r = <-wal.Records:
			case <-stop:
				return
			}
			if r.Sends[0].GetClientMsgNo() == "end" {
				r.Answer(1)
				continue
			}
			id := func(r *record) { // the answer identifies its send
				answers := &message.AnswerBatch{}
				for _, s := range r.Sends {
					var n uint64
					_, _ = fmt.Sscan(s.GetClientMsgNo(), &n)
					answers.Answers = append(answers.Answers, &message.Answer{MessageId: n + 1, MessageSeq: n + 1})
				}
				data, _ := proto.Marshal(answers)
				r.Say(data)
			}
			switch i % 5 {
			case 0:
				r.Ack()
				id(r)
			case 1:
				id(r)
				r.Ack()
			case 2:
				late = append(late, r)
			case 3:
				r.Refuse(503, 10077, "maximum bytes exceeded")
			case 4:
				id(r)
				for _, l := range late {
					l.Ack()
					id(l)
				}
				late = nil
			}
		}
	}()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > 2000 {
					return
				}
				g, err := b.try(send("g", fmt.Sprint(n)))
				switch {
				case err != nil:
					t.Error(err)
				case g.status == http.StatusOK:
					answered.Add(1)
					if fmt.Sprint(g.body["message_seq"]) != fmt.Sprint(n+1) {
						t.Errorf("send %d got %s", n, g.raw)
					}
				case g.status != http.StatusServiceUnavailable:
					t.Errorf("send %d got %s", n, g.raw)
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, answered.Load())
	for b.post(send("g", "end")).status != http.StatusOK {
	}
	close(stop)
	receive(t, done)
	requireForgotten(t, b)
}

// crowdMin is the number of waiting sends from which admission control applies.
const crowdMin = 256

// TestCrowd: if more than crowdMin sends wait too long, new ones are refused at once; fewer may wait, and once they have
// been answered new ones are accepted again.
func TestCrowd(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.WaitMax = time.Nanosecond }})
	wal := b.script(0)

	answers := []<-chan got{b.async(send("g", "0"))}
	first := wal.Next()
	for i := range crowdMin - 1 { // each waits too long, but they are too few
		answers = append(answers, b.async(send("g", fmt.Sprint(i+1))))
	}
	b.queued(0, crowdMin-1)
	for range 3 {
		g := b.post(send("g", "one too many"))
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		requireShape(t, g)
		require.Equal(t, "overloaded", g.code())
	}
	require.Equal(t, []string{"overloaded"}, b.bulk(t, ndjson, strings.NewReader(send("g", "also"))).codes(), "nor does it help to be in a bulk")

	first.Answer(1)
	second := wal.Next()
	require.Len(t, second.Sends, crowdMin-1)
	answers = append(answers, b.async(send("g", "late")))
	b.queued(0, 1)
	require.Equal(t, "overloaded", b.post(send("g", "one too many")).code(), "the rest are as many, and have waited")
	second.Answer(2)
	wal.Next().Answer(uint64(crowdMin) + 1)
	for _, c := range answers {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
	again := b.async(send("g", "one too many"))
	wal.Next().Answer(1000)
	require.Equal(t, http.StatusOK, receive(t, again).status)
	requireForgotten(t, b)
}

// TestOneIsNoCrowd: the many sends of one request wait for each other, however long that takes, and none of them is
// refused.
func TestOneIsNoCrowd(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2, config: func(c *Config) { c.WaitMax, c.QueueSendsMax = time.Nanosecond, 2*crowdMin }})
	b.sequence()
	const items = 10 * crowdMin
	var lines, uids strings.Builder
	for i := range items {
		lines.WriteString(send(fmt.Sprint("g", i%100), fmt.Sprint(i)) + "\n")
		fmt.Fprintf(&uids, `"u%d",`, i)
	}
	m := b.bulk(t, ndjson, strings.NewReader(lines.String()))
	require.Equal(t, make([]string, items), m.codes())

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/message/sendbatch", strings.NewReader(`{"from_uid":"a","payload":"aGk=","subscribers":[`+strings.TrimSuffix(uids.String(), ",")+`]}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	g, err := b.do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	require.Empty(t, g.body["fail_uids"])
	requireForgotten(t, b)
}

func TestNoAckInTime(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.AckTimeout = shortTimeout }})
	wal := b.script(0)

	first := b.async(send("g", "1"))
	silent := wal.Next()
	second := b.async(send("g", "2"))
	g := receive(t, first)
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "outcome_unknown", g.code())
	requireShape(t, g)
	// The slot is free again, and the batch that was given up stays so.
	r := wal.Next()
	silent.Ack()
	silent.Answer(1)
	r.Ack()
	r.Answer(2)
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

// requireForgotten checks that nothing is kept of answered requests.
func requireForgotten(t *testing.T, b *bundle) {
	t.Helper()
	require.Eventually(t, func() bool {
		for p := range int(b.service.topology) {
			if b.service.commits.Load(p) != (groupcommit.Load{}) {
				return false
			}
		}
		return true
	}, testTimeout, time.Millisecond)
}

func TestLateAnswerFindsNoWaiter(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.AckTimeout, c.AnswerTimeout = shortTimeout, shortTimeout
	}})
	wal := b.script(0)
	for round := range 2 {
		first := b.async(send("g", fmt.Sprint("late", round)))
		late := wal.Next()
		late.Ack()
		require.Equal(t, "no_answer", receive(t, first).code())

		second := b.async(send("g", fmt.Sprint("good", round)))
		r := wal.Next()
		late.Answer(1) // while another request waits, on recycled memory
		late.Answer(1)
		r.Answer(uint64(100 + round))
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
			wal.Next().Refuse(row.code, row.errCode, row.description)
			g := receive(t, c)
			require.Equal(t, http.StatusServiceUnavailable, g.status)
			require.Equal(t, row.want, g.code())
			requireShape(t, g)
		})
	}
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
	r := wal.Next()

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
	r.Answer(1)
	require.Equal(t, http.StatusOK, receive(t, first).status)
	both := wal.Next()
	require.Len(t, both.Sends, 2, "what was accepted is committed")
	both.Answer(2)
	g := receive(t, other)
	require.Contains(t, g.raw, `"client_msg_no":"stays"`)
	require.Contains(t, g.raw, `"message_seq":3`)
	requireForgotten(t, b)
}
