package clickhouse_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// ClickHouse makes the same digest of a row as we make of its message, whatever is in it.
func TestDigestsAreTheSameOnBothSides(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	text := func() string {
		raw := make([]byte, random.IntN(12))
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		return string(raw) + []string{"", "a,b:1", "群聊", "'\\\x00\n"}[random.IntN(4)]
	}
	const rows = 500
	digester := clickhouse.NewDigester()
	var block clickhouse.Block
	var sum uint64
	var texts []string
	for n := uint64(1); n <= rows; n++ {
		send := &message.Send{
			ChannelId: fmt.Sprint("c", n%7), ChannelType: uint32(1 + random.IntN(12)), FromUid: "u", ClientMsgNo: fmt.Sprint(n),
			StreamNo: "s", TagKey: "群", RedDot: n%2 == 0, SyncOnce: n%3 == 0, Payload: []byte(text()),
		}
		if n%5 == 0 {
			send.Expire = math.MaxUint32 - uint32(n)
		}
		for range random.IntN(4) {
			send.Subscribers = append(send.Subscribers, fmt.Sprint("s", random.IntN(100)))
		}
		encoded, err := send.MarshalVT()
		require.NoError(t, err)
		id := message.MakeID(60_000_000_000+int64(n*977), 3, int(n%4096))
		identity := message.Identity{ID: id, Seq: n, WALSeq: n * 3, WALIndex: uint32(n % 9)}
		if n%11 == 0 { // the broker's clock was ahead before; 77 is one of these
			identity.TimestampMilli = uint64(id.UnixMilli()) - 400*86_400_000
		}
		record := message.AppendMessage(nil, encoded, identity)
		require.NoError(t, block.Append(n, record))
		d, err := digester.Digest(n, record)
		require.NoError(t, err)
		require.Equal(t, send.GetExpire() > 0, d.Expires > 0)
		sum += d.Hash
		if n == 77 {
			texts, err = digester.Texts(n, record)
			require.NoError(t, err)
		}
	}
	require.NoError(t, b.client.Insert(b.ctx, &block, 0, rows, "token"))
	all := clickhouse.Selection{Partition: 3, First: 1, Last: rows}
	sums, err := b.client.SumRanges(b.ctx, all, rows)
	require.NoError(t, err)
	require.Equal(t, map[uint64]clickhouse.RangeSum{0: {Rows: rows, Sum: sum}}, sums)
	sums, err = b.client.SumRanges(b.ctx, all, 100)
	require.NoError(t, err)
	require.Len(t, sums, 5)
	digests, err := b.client.RowDigests(b.ctx, all)
	require.NoError(t, err)
	require.Len(t, digests, rows)
	have, err := b.client.RowTexts(b.ctx, 3, 77)
	require.NoError(t, err)
	require.Equal(t, [][]string{texts}, have)
	all.ExpiresBy = math.MaxUint32 * 2
	counts, err := b.client.Count(b.ctx, all)
	require.NoError(t, err)
	require.Equal(t, clickhouse.RowCounts{Rows: rows - rows/5, Different: rows - rows/5}, counts)
	extents, err := b.client.Extents(b.ctx)
	require.NoError(t, err)
	require.Equal(t, []clickhouse.Extent{{Partition: 3, Rows: rows, First: 1, Last: rows}}, extents)
}
