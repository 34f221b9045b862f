package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

var group = clickhouse.Channel{ID: "g", Type: 2}

// brokenTable is a ClickHouse that cannot be reached.
type brokenTable struct{ table }

var errBroken = errors.New("ClickHouse is away")

func (brokenTable) Page(context.Context, clickhouse.Channel, clickhouse.Range, func(*clickhouse.Row) error) error {
	return errBroken
}

func (brokenTable) Sent(context.Context, clickhouse.Channel, string, string) (clickhouse.Identity, bool, error) {
	return clickhouse.Identity{}, false, errBroken
}

// pageOf posts a request for group g.
func (b *bundle) pageOf(mode int, start, end uint64, limit int) got {
	b.t.Helper()
	return b.sync(fmt.Sprintf(`{"login_uid":"u","channel_id":"g","channel_type":2,"pull_mode":%d,"start_message_seq":%d,"end_message_seq":%d,"limit":%d}`, mode, start, end, limit))
}

// expected is what messagesync returns of a channel that has these messages; see span.
func expected(live []uint64, mode int, start, end uint64, limit int) (page []uint64, more int) {
	q := syncRequest{start: start, end: end, pullMode: int64(mode)}
	sp, _ := q.span()
	inside := []uint64{}
	for _, seq := range live {
		if seq >= sp.first && seq <= sp.last {
			inside = append(inside, seq)
		}
	}
	if len(inside) <= limit {
		return inside, 0
	}
	if sp.newestFirst {
		return inside[len(inside)-limit:], 1
	}
	return inside[:limit], 1
}

// Some messages are only in ClickHouse, some are in both, some only in the message log, where a read sees them at once. Each
// comes once, expired ones and dead letters do not come.
func TestPagesOfTableAndTail(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	const last, inserted, done = 60, 34, 25
	expired, refused := []int{3, 20, 29, 30, 40, 59}, []int{45, 60}
	var live []uint64
	var record []*message.Message
	for seq := 1; seq <= last; seq++ {
		m := sample("g", seq)
		switch {
		case slices.Contains(expired, seq):
			m.Expire = 1
		case slices.Contains(refused, seq):
			m.NoPersist = true
		default:
			live = append(live, uint64(seq))
		}
		if seq <= inserted {
			b.insert(m)
		}
		if record = append(record, m); len(record) == 3 {
			b.publish(record...)
			record = nil
		}
		if seq == done {
			b.recordIn(done, uint64((seq+2)/3), b.streamCreated())
		}
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 150 {
		mode, start, end, limit := random.IntN(2), random.Uint64N(last+5), random.Uint64N(last+5), 1+random.IntN(last+5)
		want, more := expected(live, mode, start, end, limit)
		g := b.pageOf(mode, start, end, limit)
		require.Equal(t, http.StatusOK, g.status, g.raw)
		require.Equal(t, want, g.seqs(), "seed %d: mode %d, %d to %d, limit %d", seed, mode, start, end, limit)
		require.Equal(t, more, g.More, "seed %d: mode %d, %d to %d, limit %d", seed, mode, start, end, limit)
	}
	require.Equal(t, live, b.walk(7, pullOlder))
	require.Equal(t, live, b.walk(7, pullNewer))
	stored, logged := b.pageOf(pullNewer, 2, 0, 1), b.pageOf(pullNewer, 58, 0, 1)
	for _, g := range []got{stored, logged} {
		require.Equal(t, fmt.Appendf(nil, "message %d", g.Messages[0].MessageSeq), g.Messages[0].Payload)
	}

	seq, problem := b.service.newestSeq(b.ctx, b.ctx, group)
	require.Nil(t, problem)
	require.EqualValues(t, last-1, seq, "also if it has expired; the last one was never stored")
	found := b.get(pathByKey, "channel_id", "g", "channel_type", "2", "client_msg_no", "no-50")
	require.EqualValues(t, 50, found.MessageSeq, found.raw)
	for _, no := range []string{"no-59", "no-60", "no-61"} {
		require.Equal(t, "message_not_found", b.get(pathByKey, "channel_id", "g", "channel_type", "2", "client_msg_no", no).Code, no)
	}
	found = b.post(pathMessage, fmt.Sprintf(`{"channel_id":"g","channel_type":2,"message_id":%d}`, found.MessageID))
	require.EqualValues(t, 50, found.MessageSeq, found.raw)
}

// A message is the same whether a page has it from the message log or from the table.
func TestRowsAreTheSame(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	m := testkit.FullMessage(1)
	m.ChannelId, m.ChannelType, m.MessageSeq, m.NoPersist, m.Expire = "g", 2, 1, false, 1<<30
	m.MessageId = uint64(message.MakeID(at().Sub(message.Epoch()).Milliseconds()+999, 0, 7))
	m.Timestamp = uint64(at().UnixMilli() - 1)
	b.publish(m)
	logged := b.pageOf(pullNewer, 0, 0, 10)
	require.Len(t, logged.Messages, 1)
	b.insert(m)
	b.record(1, b.streamCreated())
	b.serveOver(b.nc, b.js)
	require.Equal(t, logged.raw, b.pageOf(pullNewer, 0, 0, 10).raw)
}

// ClickHouse is away. What the tail answers completely is answered.
func TestPagesWithoutClickHouse(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	for seq := 1; seq <= 20; seq++ {
		b.publish(sample("g", seq), sample("h", seq))
	}
	b.recordIn(20, 10, b.streamCreated()) // messages 1 to 10 of each
	b.service.table = brokenTable{b.service.table}
	for _, g := range []got{b.pageOf(0, 0, 0, 5), b.pageOf(1, 0, 0, 10), b.pageOf(0, 15, 10, 10), b.pageOf(1, 11, 0, 100), b.pageOf(1, 15, 18, 100)} {
		require.Equal(t, http.StatusOK, g.status, g.raw)
		require.NotEmpty(t, g.Messages)
	}
	require.Equal(t, sequence64(11, 20), b.pageOf(0, 0, 0, 10).seqs())
	require.Equal(t, 1, b.pageOf(0, 0, 0, 10).More, "older ones are in ClickHouse")
	require.Equal(t, 0, b.pageOf(0, 0, 10, 10).More)
	require.Equal(t, stateAccepted, b.status("no-13", "from_uid", "u1").State)
	for _, g := range []got{b.pageOf(0, 0, 0, 11), b.pageOf(1, 1, 0, 5), b.pageOf(1, 10, 0, 5), b.pageOf(0, 5, 0, 5), b.status("no-4")} {
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		require.Equal(t, "history_unavailable", g.Code)
	}
	b.publish(sample("i", 1), sample("i", 2)) // a channel that is not in ClickHouse at all
	require.Equal(t, sequence64(1, 2), b.sync(`{"login_uid":"u","channel_id":"i","channel_type":2}`).seqs())
}

// ClickHouse lags by more than the tail can hold. A page without a gap is complete all the same; no other page is returned.
func TestPagesOfAnIncompleteTail(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.HistoryTailBytesMax = tailBytesMin }}) // the least that a partition gets
	const last, size = 60, 64 << 10
	var all []*message.Message
	for seq := 1; seq <= last; seq++ {
		m := sample("g", seq)
		m.Payload = make([]byte, size)
		all = append(all, m)
		b.publish(m)
	}
	b.insert(all[:20]...)
	inTail := 0
	for limit := 1; b.pageOf(0, 0, 0, limit).status == http.StatusOK; limit++ {
		g := b.pageOf(0, 0, 0, limit)
		require.Equal(t, sequence64(last-limit+1, last), g.seqs())
		require.Equal(t, 1, g.More)
		inTail = limit
	}
	require.Greater(t, inTail, 10)
	require.Less(t, inTail, last-20)
	for _, g := range []got{b.pageOf(0, 0, 0, last), b.pageOf(1, 15, 0, 10), b.pageOf(0, 30, 0, 5), b.pageOf(1, 21, 23, 5), b.pageOf(0, last-5, 0, 50)} {
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		require.Equal(t, "history_behind", g.Code)
		require.NotEmpty(t, g.header.Get("Retry-After"))
	}
	for _, g := range []got{b.pageOf(1, 1, 0, 20), b.pageOf(1, 5, 10, 20), b.pageOf(0, 20, 0, 7), b.pageOf(0, 20, 15, 50), b.pageOf(1, last, 0, 50), b.pageOf(1, last+1, 0, 50)} {
		require.Equal(t, http.StatusOK, g.status, g.raw)
	}
	require.Equal(t, sequence64(1, 19), b.pageOf(1, 1, 0, 19).seqs())
	require.Equal(t, stateAccepted, b.status(fmt.Sprint("no-", last), "from_uid", fmt.Sprint("u", last%3)).State)
	g := b.status("other")
	require.Equal(t, stateUnknown, g.State)
	require.False(t, *g.Complete)
	require.Equal(t, "history_behind", b.post(pathMessage, `{"channel_id":"g","channel_type":2,"message_id":1}`).Code)
	seq, problem := b.service.newestSeq(b.ctx, b.ctx, group)
	require.Nil(t, problem)
	require.EqualValues(t, last, seq)

	b.insert(all[20:]...) // the writer has not recorded its position yet
	require.Equal(t, sequence64(1, last), b.pageOf(0, 0, 0, last).seqs())
	require.Equal(t, sequence64(1, last), b.pageOf(1, 1, 0, last).seqs())
}

// A send that is not folded may have been answered: the channel's newest messages are not known, those of others are.
func TestPagesWhileASendIsNotFolded(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.HistoryTimeout = time.Second }})
	b.publish(sample("g", 1), sample("g", 2), sample("h", 1))
	b.write(sendOf(sample("g", 3)))
	for _, g := range []got{b.pageOf(0, 0, 0, 10), b.pageOf(1, 1, 0, 10)} {
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		require.Equal(t, "history_behind", g.Code)
	}
	require.Equal(t, sequence64(1, 2), b.pageOf(0, 2, 0, 10).seqs())
	require.Equal(t, sequence64(1, 1), b.pageOf(1, 1, 0, 1).seqs())
	require.Equal(t, sequence64(1, 1), b.sync(`{"login_uid":"u","channel_id":"h","channel_type":2}`).seqs())
	_, problem := b.service.newestSeq(b.ctx, b.ctx, group)
	require.Equal(t, "history_behind", problem.Code)
	b.publish(sample("g", 3))
	testkit.WaitFor(t, testTimeout, "the message", func(context.Context) error {
		if g := b.pageOf(0, 0, 0, 10); !slices.Equal(sequence64(1, 3), g.seqs()) {
			return errors.New(g.raw)
		}
		return nil
	})
}
