package clickhouse_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// sample is a message that differs from every other number in every field.
func sample(n int) *message.Message {
	return &message.Message{
		ChannelId: fmt.Sprintf("频道-%d", n%5), ChannelType: uint32(n%12 + 1), FromUid: fmt.Sprintf("user %d", n), ClientMsgNo: fmt.Sprintf("no-%d", n),
		RedDot: n%2 == 0, SyncOnce: n%3 == 0, StreamNo: strings.Repeat("s", n%4), TagKey: strings.Repeat("t", n%3),
		Payload:   append([]byte{0, 0xff, '\'', '\\', '\n'}, fmt.Sprint(n)...),
		MessageId: uint64(message.MakeID(int64(n)*86_400_000/1000, n%4, n%4096)), MessageSeq: uint64(n), WalSeq: uint64(n) + 1000, WalIndex: uint32(n % 256),
	}
}

func encode(t testing.TB, m *message.Message) []byte {
	t.Helper()
	encoded, err := m.MarshalVT()
	require.NoError(t, err)
	return encoded
}

// fill makes a block of the samples first to last, with the number as the stream sequence.
func fill(t testing.TB, first, last int) *clickhouse.Block {
	t.Helper()
	var b clickhouse.Block
	for n := first; n <= last; n++ {
		require.NoError(t, b.Append(uint64(n), encode(t, sample(n))))
	}
	return &b
}

func TestInsertRoundTrip(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	requireRoundTrip(t, b, func(at time.Time) any { return at.UTC() }, new(time.Time))
}

// requireRoundTrip inserts messages of every kind and reads their rows. timestamp is how the table has a time, into is where one is read to.
func requireRoundTrip[T any](t *testing.T, b bench, timestamp func(time.Time) any, into *T) {
	t.Helper()
	all := make(map[uint64]*message.Message)
	var block clickhouse.Block
	for n := 1; n <= 300; n++ {
		m := sample(n)
		switch n {
		case 10: // every string as large as it gets, and all bytes there are
			m.ChannelId = strings.Repeat("\U0001F680", 150)
			m.Payload = make([]byte, 64<<10)
			for i := range m.Payload {
				m.Payload[i] = byte(i)
			}
			m.Expire = 4294967295
		case 20, 299:
			for i := range 1000 {
				m.Subscribers = append(m.Subscribers, fmt.Sprintf("uid-ü-%d", i))
			}
			m.Subscribers = append(m.Subscribers, "", "a\x00b")
		}
		all[uint64(n)] = m
		require.NoError(t, block.Append(uint64(n), encode(t, m)))
	}
	// In pieces, so that the others begin in the middle of the block, and in what is left of the insert before: a longer one,
	// and one that was cut off.
	require.NoError(t, b.client.Insert(b.ctx, &block, 0, 120, "a"))
	ended, end := context.WithCancel(b.ctx)
	end()
	require.Error(t, b.client.Insert(ended, &block, 120, 300, "b"))
	require.NoError(t, b.client.Insert(b.ctx, &block, 120, 280, "b"))
	require.NoError(t, b.client.Insert(b.ctx, &block, 280, 300, "c"))

	rows, err := b.plain.Query(b.ctx, `SELECT message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once,
			stream_no, tag_key, expire, subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index FROM `+b.database+".messages")
	require.NoError(t, err)
	seen := 0
	for rows.Next() {
		var (
			have                   message.Message
			id                     int64
			channelType, red, sync uint8
			payload                string
			partition              uint16
			partitionSeq           uint64
		)
		require.NoError(t, rows.Scan(&id, &have.MessageSeq, &have.ChannelId, &channelType, &have.FromUid, &have.ClientMsgNo, &red, &sync,
			&have.StreamNo, &have.TagKey, &have.Expire, &have.Subscribers, &payload, into, &partition, &partitionSeq, &have.WalSeq, &have.WalIndex))
		have.MessageId, have.ChannelType, have.RedDot, have.SyncOnce, have.Payload = uint64(id), uint32(channelType), red == 1, sync == 1, []byte(payload)
		want := all[partitionSeq]
		if len(have.Subscribers) == 0 {
			have.Subscribers = nil
		}
		require.True(t, want.EqualVT(&have), "want %v\nhave %v", want, &have)
		require.EqualValues(t, timestamp(message.ID(id).Time()), *into)
		require.EqualValues(t, message.ID(id).Partition(), partition)
		seen++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, len(all), seen)
}

func TestInsertOncePerToken(t *testing.T) {
	t.Parallel()
	// Whatever the DSN says, an insert is a block of its own.
	b := setup(t, engine.DSN(t)+"?async_insert=1&wait_for_async_insert=0")
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "SYSTEM STOP MERGES "+b.database+".messages") // so that only the token can be at work
	block := fill(t, 1, 100_000)                            // over three months
	count := func() uint64 { return b.number(t, "SELECT count() FROM "+b.database+".messages") }

	require.NoError(t, b.client.Insert(b.ctx, block, 0, 70_000, "MESSAGES_0/t/1-70000"))
	parts := b.number(t, "SELECT count() FROM system.parts WHERE active AND database = '"+b.database+"' AND table = 'messages'")
	months := b.number(t, "SELECT uniqExact(toYYYYMM(timestamp)) FROM "+b.database+".messages")
	require.Equal(t, months, parts, "a block must make one part in each of the table's partitions")
	for range 3 {
		require.NoError(t, b.client.Insert(b.ctx, block, 0, 70_000, "MESSAGES_0/t/1-70000"))
		require.EqualValues(t, 70_000, count())
	}
	require.NoError(t, b.client.Insert(b.ctx, block, 70_000, 100_000, "MESSAGES_0/t/70001-100000"))
	require.EqualValues(t, 100_000, count())

	// Without the token the second net remains.
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 70_000, "another"))
	require.EqualValues(t, 170_000, count())
	require.EqualValues(t, 100_000, b.number(t, "SELECT count() FROM "+b.database+".messages FINAL"))

	first, err := b.client.CountRange(b.ctx, 0, 1, 100_000)
	require.NoError(t, err)
	require.EqualValues(t, 25_000, first)
}

func TestRowsExpire(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	var block clickhouse.Block
	now := time.Since(message.Epoch()).Milliseconds()
	for n, expire := range []uint32{0, 1, 100, 4294967295} {
		m := sample(n + 1)
		m.Expire, m.MessageId = expire, uint64(message.MakeID(now-10_000, 0, n))
		require.NoError(t, block.Append(uint64(n+1), encode(t, m)))
	}
	require.NoError(t, b.client.Insert(b.ctx, &block, 0, 4, "t"))
	b.exec(t, "OPTIMIZE TABLE "+b.database+".messages FINAL")
	require.EqualValues(t, 3, b.number(t, "SELECT count() FROM "+b.database+".messages"))
	require.EqualValues(t, 0, b.number(t, "SELECT count() FROM "+b.database+".messages WHERE expire = 1"))
}

func TestIndexesAreUsed(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	require.NoError(t, b.client.Insert(b.ctx, fill(t, 1, 20_000), 0, 20_000, "t"))
	for _, where := range []string{fmt.Sprintf("message_id = %d", sample(77).GetMessageId()), "client_msg_no = 'no-77'"} {
		text := b.explain(t, "SELECT payload FROM "+b.database+".messages WHERE "+where)
		name, _, _ := strings.Cut(where, " ")
		require.Contains(t, text, "Name: "+name+"_index")
	}
}
