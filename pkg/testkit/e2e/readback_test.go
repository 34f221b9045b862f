package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// pairsVariable is the number of pairs of a send and a read; make read-back sets it.
const pairsVariable = "READ_PAIRS"

// pairsDefault is that of the short form.
const pairsDefault = 2000

// pairClients is the number of clients that make the pairs, beside a load of sends.
const pairClients = 12

// readBack is a number of clients, each of which sends a message and, when it is answered, reads it back.
type readBack struct {
	load    *load
	reader  *node
	client  *http.Client
	wanted  int64
	started atomic.Int64

	mu     sync.Mutex
	seen   map[string]int // reads, by what was answered
	misses []string
}

// pairsWanted returns the number of pairs to make.
func pairsWanted(t *testing.T) int64 {
	t.Helper()
	n, err := strconv.ParseInt(cmp.Or(os.Getenv(pairsVariable), strconv.Itoa(pairsDefault)), 10, 64)
	require.NoError(t, err, pairsVariable)
	return n
}

// startReadBack sends as the load does, and reads from another node or the same.
func startReadBack(t *testing.T, l *load, reader *node, seed uint64) *readBack {
	t.Helper()
	b := &readBack{load: l, reader: reader, wanted: pairsWanted(t), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: pairClients}}, seen: make(map[string]int)}
	t.Cleanup(b.client.CloseIdleConnections)
	for n := range pairClients {
		d := &dice{Rand: rand.New(rand.NewPCG(seed, uint64(1000+n))), channels: channelsDefault, prefix: fmt.Sprintf("pair%d", n)}
		l.clients.Go(func() { b.run(t.Context(), d) })
	}
	return b
}

// run is one client.
func (b *readBack) run(ctx context.Context, d *dice) {
	for b.load.going.Err() == nil && ctx.Err() == nil {
		number := b.started.Add(1)
		if number > b.wanted {
			return
		}
		r := &record{send: d.send(), begun: time.Now()}
		var ok bool
		if r.answer, ok = b.load.deliver(ctx, &r.send, false); !ok {
			return
		}
		r.answered = time.Now()
		outcome := b.read(ctx, r, int(number%4))
		b.load.add(r)
		b.mu.Lock()
		b.seen[outcome]++
		b.mu.Unlock()
	}
}

// read reads a message in one of the ways, until the answer is no 503 and not lost in a crash.
func (b *readBack) read(ctx context.Context, r *record, way int) (outcome string) {
	for ctx.Err() == nil {
		a, err := b.ask(ctx, r, way)
		switch {
		case err != nil || a.status == http.StatusServiceUnavailable:
			b.mu.Lock()
			b.seen[cmp.Or(a.Code, "no answer")]++
			b.mu.Unlock()
			_ = lifecycle.Pause(ctx, tryAgainAfter) // the loop looks at ctx
		case a.status != http.StatusOK:
			b.miss(r, way, a)
			return "refused"
		case way == 2 && a.ID == r.id && a.Seq == r.seq:
			return a.State
		case way == 2 && a.ID == 0 && a.State == "accepted":
			return "accepted, not folded"
		case way != 2 && slices.ContainsFunc(a.Messages, func(m synced) bool { return m.is(r) }):
			return "read"
		default:
			b.miss(r, way, a)
			return "missed"
		}
	}
	return "ended"
}

// ask asks for a message: alone in either direction, by its status, or among the newest of its channel.
func (b *readBack) ask(ctx context.Context, r *record, way int) (asked, error) {
	request := syncRequest{LoginUID: r.fromUID, ChannelID: r.channelID, ChannelType: r.channelType, Start: r.seq, Limit: 1, PullMode: way % 2}
	if r.syncOnce {
		request.ChannelID += message.CommandSuffix
	}
	switch way {
	case 2:
		return b.reader.readBy(ctx, b.client, http.MethodGet, statusPath(&r.send), nil)
	case 3:
		request.Start, request.Limit = 0, 200
	}
	return b.reader.readBy(ctx, b.client, http.MethodPost, "/channel/messagesync", request)
}

func (b *readBack) miss(r *record, way int, a asked) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.misses = append(b.misses, fmt.Sprintf("%s of %s was answered %v at %s, and read in way %d as %d %.300s", r.clientMsgNo, r.channel(), r.answer, r.answered.Format(time.RFC3339Nano), way, a.status, a.text))
}

// await waits until a share of the pairs is done.
func (b *readBack) await(t *testing.T, share float64) {
	t.Helper()
	testkit.WaitFor(t, time.Hour, "pairs of sends and reads", func(context.Context) error {
		if started := b.started.Load(); float64(started) < share*float64(b.wanted) {
			return fmt.Errorf("%d of %d", started, b.wanted)
		}
		return nil
	})
}

// finish waits for the last pair and wants no miss.
func (b *readBack) finish(t *testing.T) []*record {
	t.Helper()
	b.await(t, 1)
	records := b.load.finish()
	b.mu.Lock()
	defer b.mu.Unlock()
	t.Logf("%d pairs beside %d sends; the answers of the reads: %v", b.wanted, int64(len(records))-b.wanted, b.seen)
	require.Empty(t, b.misses)
	return records
}

// kills returns how often processes are killed.
func (b *readBack) kills() int { return max(4, int(b.wanted/5_000)) }

// TestEndToEndReadBack reads each message when its send is answered, under load, while the process is killed.
func TestEndToEndReadBack(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	up := newUp(t)
	up.Start()
	table := embeddedTable(t, up)
	b := startReadBack(t, startLoad(t, up.api, loadConfig{seed: seed, clients: 4}), up, seed)
	for n := range b.kills() {
		b.await(t, float64(n+1)/float64(b.kills()+1))
		up.Kill9()
		up.Start()
	}
	verify(t, table, b.finish(t))
}

// TestEndToEndReadBackApart sends to one ingest and reads from another, while writers are killed, at times the sequencer, and once
// ClickHouse.
func TestEndToEndReadBackApart(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	a := startApart(t)
	reader := newRole(t, "ingest", into(a.clickHouse), "--nats-url="+a.natsURL)
	reader.Start()
	b := startReadBack(t, startLoad(t, a.ingest.api, loadConfig{seed: seed, clients: 4}), reader, seed)
	for n := range b.kills() {
		b.await(t, float64(n+1)/float64(b.kills()+1))
		switch {
		case n == 1:
			a.clickHouse.Kill9()
			b.await(t, (float64(n)+1.2)/float64(b.kills()+1))
			a.clickHouse.Start()
		case n%4 == 2:
			a.sequencer.Kill9()
			a.sequencer.Start()
		default:
			a.writer.Kill9()
			a.writer.Start()
		}
	}
	a.verify(t, b.finish(t))
	require.Equal(t, 0, reader.Stop())
}
