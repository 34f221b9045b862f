package ingest

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// shortTimeout is for tests in which one request must run into a timeout and another
// must not, on a machine that does much else.
const shortTimeout = 2 * time.Second

func one() options { return options{partitions: 1, noStreams: true} }

func TestAnswerBeforeAck(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)

	first := b.async(send("g", "1"))
	r1 := wal.next()
	second := b.async(send("g", "2"))
	b.queued(0, 1)
	r1.answer(7) // proves that it is durable: the next one may go
	require.Contains(t, receive(t, first).raw, `"message_seq":7`)
	r2 := wal.next()
	r1.ack() // late, and of no interest
	third := b.async(send("g", "3"))
	b.queued(0, 1)
	r2.answer(8)
	require.Contains(t, receive(t, second).raw, `"message_seq":8`)
	r3 := wal.next()
	r3.ack()
	r3.answer(9)
	require.Contains(t, receive(t, third).raw, `"message_seq":9`)
}

func TestGroupCommitGathersWhileOneIsInFlight(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)

	var answers []<-chan got
	answers = append(answers, b.async(send("g", "0")))
	r := wal.next()
	require.Len(t, r.sends, 1, "a lone send leaves at once")
	const more = batchSendsMax + 10
	for i := range more {
		answers = append(answers, b.async(send("g", fmt.Sprint(i+1))))
	}
	b.queued(0, more)
	require.Empty(t, wal.records, "one publish in flight")
	r.ack()
	full := wal.next()
	require.Len(t, full.sends, batchSendsMax)
	full.ack()
	rest := wal.next()
	require.Len(t, rest.sends, 10)
	rest.ack()
	// Each request gets its own answer, whichever batch is answered first.
	rest.answer(2000)
	r.answer(1)
	full.answer(1000)
	want := make(map[string]uint64)
	for first, r := range map[uint64]*record{1: r, 1000: full, 2000: rest} {
		for i, s := range r.sends {
			want[s.GetClientMsgNo()] = first + uint64(i)
		}
	}
	for _, c := range answers {
		g := receive(t, c)
		require.Equal(t, fmt.Sprint(want[g.body["client_msg_no"].(string)]), fmt.Sprint(g.body["message_seq"]))
	}
}

func TestGroupCommitLimits(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	p := b.service.partitions[0]
	// Sends of known order, from one goroutine, of sizes around the limits.
	first := &message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: "first", Payload: []byte("x")}
	_, failed := p.enqueue(first, first.SizeVT(), nil)
	require.Equal(t, outcomeAccepted, failed)
	flying := wal.next()
	var order []string
	for i := range 2000 {
		size := []int{1, 100, 5_000, 60_000, 300_000, 600_000}[i*i%6]
		if i > 900 {
			size = 10 // many small ones
		}
		s := &message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint(i), Payload: make([]byte, size)}
		if p.bytes+size+1000 > p.bytesMax {
			continue
		}
		_, failed := p.enqueue(s, s.SizeVT(), nil)
		require.Equal(t, outcomeAccepted, failed)
		order = append(order, s.GetClientMsgNo())
	}
	require.Greater(t, len(order), 1000)
	for len(order) > 0 {
		flying.ack()
		flying = wal.next()
		require.LessOrEqual(t, len(flying.sends), batchSendsMax)
		if len(flying.sends) > 1 {
			require.LessOrEqual(t, len(flying.msg.Data), batchBytesMax)
		}
		for _, s := range flying.sends {
			require.Equal(t, order[0], s.GetClientMsgNo())
			order = order[1:]
		}
	}
	require.Zero(t, p.sends)
	require.Zero(t, p.bytes)
}

// TestManyAtOnce is the whole on the real log: each request gets its own answer, and
// every send stands in the log once.
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

// requireForgotten checks that nothing is kept of requests that have been answered.
func TestOverloaded(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.QueueSendsMax = 3 }})
	wal := b.script(0)
	answers := []<-chan got{b.async(send("g", "0"))}
	r := wal.next()
	for i := range 3 {
		answers = append(answers, b.async(send("g", fmt.Sprint(i+1))))
	}
	b.queued(0, 3)
	g := b.post(send("g", "one too many"))
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "overloaded", g.code())
	requireShape(t, g)
	r.answer(1)
	wal.next().answer(2)
	for _, c := range answers {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.RequestsMax = 1 }})
	wal := b.script(0)
	first := b.async(send("g", "0"))
	r := wal.next()
	g := b.post(send("g", "1"))
	require.Equal(t, "overloaded", g.code())
	r.answer(1)
	require.Equal(t, http.StatusOK, receive(t, first).status)
}

func TestLargeSendGoesAlone(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.PayloadBytesMax, c.BodyBytesMax = 4<<20, 16<<20
	}})
	wal := b.script(0)
	first := b.async(send("g", "0"))
	r := wal.next()
	large := strings.Repeat("aaaa", 1<<20/3)
	second := b.async(with(`"client_msg_no":"large","payload":"` + large + `"`))
	b.queued(0, 1)
	third := b.async(send("g", "small"))
	b.queued(0, 2)
	r.answer(1)
	alone := wal.next()
	require.Len(t, alone.sends, 1)
	require.Greater(t, len(alone.msg.Data), batchBytesMax)
	alone.answer(2)
	wal.next().answer(3)
	for _, c := range []<-chan got{first, second, third} {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
}

// smallPublisher is a connection to a server that takes little.
type smallPublisher struct{ *nats.Conn }

func (smallPublisher) MaxPayload() int64 { return 1 << 20 }

func TestSendLargerThanTheServerTakes(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.PayloadBytesMax, c.BodyBytesMax = 4<<20, 16<<20
	}})
	b.service.publisher = smallPublisher{b.nc}
	g := b.post(with(`"payload":"` + strings.Repeat("aaaa", 1<<20/3) + `"`))
	require.Equal(t, http.StatusRequestEntityTooLarge, g.status)
	require.Equal(t, "too_large", g.code())
	requireShape(t, g)
}

// TestEnqueueRace lets all that can end a batch run against one another; the race
// detector looks on. Every request must be answered with its own answer or a failure.
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
			case r = <-wal.records:
			case <-stop:
				return
			}
			if r.sends[0].GetClientMsgNo() == "end" {
				r.answer(1)
				continue
			}
			id := func(r *record) { // the answer says which send it is for
				answers := &message.AnswerBatch{}
				for _, s := range r.sends {
					var n uint64
					_, _ = fmt.Sscan(s.GetClientMsgNo(), &n)
					answers.Answers = append(answers.Answers, &message.Answer{MessageId: n + 1, MessageSeq: n + 1})
				}
				data, _ := proto.Marshal(answers)
				r.say(data)
			}
			switch i % 5 {
			case 0:
				r.ack()
				id(r)
			case 1:
				id(r)
				r.ack()
			case 2:
				late = append(late, r)
			case 3:
				r.refuse(503, 10077, "maximum bytes exceeded")
			case 4:
				id(r)
				for _, l := range late {
					l.ack()
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
