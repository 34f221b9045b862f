package clickhouse

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// TestRowsAreInTheOrderOfTheKey: whatever range of a block, each row is there once, by channel, and within one as they came.
func TestRowsAreInTheOrderOfTheKey(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var block Block
	names := []func(n int) string{
		func(n int) string { return fmt.Sprint("c", n) },
		func(n int) string { return fmt.Sprintf("a name that all begin with/%020d", n) },
		func(n int) string { return fmt.Sprintf("%020d/and that all end with", n) },
		func(n int) string { return strings.Repeat("\x00", 1+n%12) },
		func(n int) string { return "same\xff" + strings.Repeat("\xff", n%3) + strings.Repeat("\x00", n/3%3) },
	}
	for round := range 50 * len(names) {
		name := names[round%len(names)]
		block.Reset()
		rows := random.IntN(300) + 1
		for i := range rows {
			m := &message.Message{
				ChannelId: name(random.IntN(1 + round/len(names))), ChannelType: 1 + random.Uint32N(3), FromUid: "u",
				MessageId: uint64(message.MakeID(int64(i+1), 0, 0)), MessageSeq: uint64(i + 1), WalSeq: uint64(i + 1),
			}
			encoded, err := m.MarshalVT()
			require.NoError(t, err)
			require.NoError(t, block.Append(uint64(i+1), encoded))
		}
		first := random.IntN(rows)
		end := first + 1 + random.IntN(rows-first)
		order := slices.Clone(block.inOrder(first, end))
		require.True(t, slices.IsSortedFunc(order, func(x, y int32) int {
			return cmp.Or(cmp.Compare(block.channelID.rows[x], block.channelID.rows[y]), cmp.Compare(block.channelType.rows[x], block.channelType.rows[y]), cmp.Compare(block.messageSeq.rows[x], block.messageSeq.rows[y]))
		}))
		slices.Sort(order)
		require.Len(t, order, end-first)
		for i, row := range order {
			require.EqualValues(t, first+i, row)
		}
	}
}

func TestPickPutsTogether(t *testing.T) {
	t.Parallel()
	var p picked
	require.Equal(t, []string{"c", "a"}, pick(&p.strings, []string{"a", "b", "c"}, []int32{2, 0}))
	require.Equal(t, []string{"b"}, pick(&p.strings, []string{"a", "b", "c"}, []int32{1}))
	p.reset()
	require.Equal(t, []string{"", ""}, p.strings[:2], "no message is held on to")
}
