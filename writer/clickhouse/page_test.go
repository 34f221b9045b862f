package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// history is a block of messages 1 to last of a channel, accepted at the given time.
func history(t *testing.T, channel string, last int, at time.Time, change func(n int, m *message.Message)) *clickhouse.Block {
	t.Helper()
	var block clickhouse.Block
	for n := 1; n <= last; n++ {
		m := &message.Message{
			ChannelId: channel, ChannelType: 2, FromUid: fmt.Sprintf("u%d", n%3), ClientMsgNo: fmt.Sprintf("no-%d", n), RedDot: n%2 == 0,
			Payload: fmt.Appendf(nil, "\x00message %d", n), MessageId: uint64(message.MakeID(at.Sub(message.Epoch()).Milliseconds(), 0, n%4096)), MessageSeq: uint64(n),
		}
		if change != nil {
			change(n, m)
		}
		require.NoError(t, block.Append(uint64(n), encode(t, m)))
	}
	return &block
}

func (b bench) seqs(t *testing.T, channel string, r clickhouse.Range) (seqs []uint64) {
	t.Helper()
	require.NoError(t, b.client.Page(b.ctx, clickhouse.Channel{ID: channel, Type: 2}, r, func(row *clickhouse.Row) error {
		seqs = append(seqs, row.MessageSeq)
		return nil
	}))
	return seqs
}

func TestPage(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	// One that will expire, one that has.
	block := history(t, `o'hara "\$1`, 20, at, func(n int, m *message.Message) {
		m.Expire = map[int]uint32{5: 1, 7: 7200, 20: 3599}[n]
	})
	require.NoError(t, b.client.Insert(b.ctx, block, 0, block.Rows(), "a"))
	other := history(t, "other", 20, at, nil)
	require.NoError(t, b.client.Insert(b.ctx, other, 0, other.Rows(), "b"))

	const channel = `o'hara "\$1`
	require.Equal(t, []uint64{3, 4, 6, 7}, b.seqs(t, channel, clickhouse.Range{First: 3, Last: 7, LimitRows: 10}))
	require.Equal(t, []uint64{3, 4, 6}, b.seqs(t, channel, clickhouse.Range{First: 3, Last: 7, LimitRows: 3}))
	require.Equal(t, []uint64{19, 18, 17}, b.seqs(t, channel, clickhouse.Range{First: 1, Last: 1<<64 - 1, LimitRows: 3, NewestFirst: true}))
	require.Empty(t, b.seqs(t, channel, clickhouse.Range{First: 21, Last: 1<<64 - 1, LimitRows: 3}))
	require.Empty(t, b.seqs(t, "unknown", clickhouse.Range{First: 1, Last: 1<<64 - 1, LimitRows: 3}))

	var row clickhouse.Row
	stop := errors.New("enough")
	require.ErrorIs(t, b.client.Page(b.ctx, clickhouse.Channel{ID: channel, Type: 2}, clickhouse.Range{First: 7, Last: 9, LimitRows: 3}, func(r *clickhouse.Row) error {
		row = *r
		return stop
	}), stop)
	require.Equal(t, clickhouse.Row{
		MessageID: int64(message.MakeID(at.Sub(message.Epoch()).Milliseconds(), 0, 7)), MessageSeq: 7, FromUID: "u1", ClientMsgNo: "no-7", Expire: 7200, Subscribers: []string{},
		UnixSeconds: uint32(at.Unix()), Payload: "\x00message 7",
	}, row)
}

func TestSent(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	block := history(t, "g", 9, time.Now().Add(-time.Hour), func(n int, m *message.Message) {
		switch n {
		case 4, 7: // the same again, after the deduplication window
			m.FromUid, m.ClientMsgNo = "u", "again"
		case 8:
			m.Expire = 1
		}
	})
	require.NoError(t, b.client.Insert(b.ctx, block, 0, block.Rows(), "a"))
	find := func(channel, from, no string) uint64 {
		found, ok, err := b.client.Sent(b.ctx, clickhouse.Channel{ID: channel, Type: 2}, from, no)
		require.NoError(t, err)
		require.Equal(t, ok, found.MessageID != 0)
		return found.MessageSeq
	}
	require.EqualValues(t, 1, find("g", "u1", "no-1"))
	require.EqualValues(t, 7, find("g", "u", "again"))
	require.Zero(t, find("g", "u2", "no-1"))
	require.Zero(t, find("h", "u1", "no-1"))
	require.Zero(t, find("g", "u2", "no-8"), "it has expired")
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	_, _, err := b.client.Sent(b.ctx, clickhouse.Channel{ID: "g", Type: 2}, "u", "no")
	require.Equal(t, clickhouse.Configuration, clickhouse.ClassOf(err), "no table")
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	err = b.client.Page(ctx, clickhouse.Channel{ID: "g", Type: 2}, clickhouse.Range{Last: 1, LimitRows: 1}, func(*clickhouse.Row) error { return nil })
	require.ErrorIs(t, err, context.Canceled)
}
