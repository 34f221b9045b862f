package clickhouse

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// BenchmarkAppend decodes records of some 250 bytes into columns: the cost per row, and its allocations.
func BenchmarkAppend(b *testing.B) {
	const rows = 50_000
	random := rand.New(rand.NewPCG(1, 2))
	records := make([][]byte, rows)
	for i := range records {
		payload := make([]byte, 120)
		for j := range payload {
			payload[j] = byte(random.Uint32())
		}
		m := &message.Message{
			ChannelId: fmt.Sprintf("channel-%05d", i%10_000), ChannelType: 2, FromUid: fmt.Sprintf("user-%05d", i%5000),
			ClientMsgNo: fmt.Sprintf("0192f3c4-5d6e-7f80-9a1b-%012d", i), TagKey: "important", RedDot: true, Payload: payload,
			MessageId: uint64(message.MakeID(int64(i+1), 0, 0)), MessageSeq: uint64(i/10_000 + 1), WalSeq: uint64(i), WalIndex: uint32(i % 256),
		}
		var err error
		records[i], err = m.MarshalVT()
		require.NoError(b, err)
	}
	var block Block
	b.ReportAllocs()
	row := rows
	for b.Loop() {
		if row == rows {
			block.Reset()
			row = 0
		}
		if err := block.Append(uint64(row), records[row]); err != nil {
			b.Fatal(err)
		}
		row++
	}
}

// BenchmarkInOrder puts the rows of an insert in order, for each row: half a second's at 28,000 sends a second, over 10,000 channels.
func BenchmarkInOrder(b *testing.B) {
	const rows = 14_000
	random := rand.New(rand.NewPCG(1, 2))
	var block Block
	for i := range rows {
		m := &message.Message{
			ChannelId: fmt.Sprintf("channel-%d", random.IntN(10_000)), ChannelType: 2, FromUid: "u", Payload: make([]byte, 100),
			MessageId: uint64(message.MakeID(int64(i+1), 0, 0)), MessageSeq: uint64(i + 1), WalSeq: uint64(i),
		}
		encoded, err := m.MarshalVT()
		require.NoError(b, err)
		require.NoError(b, block.Append(uint64(i), encoded))
	}
	b.ReportAllocs()
	for b.Loop() {
		block.inOrder(0, rows)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
}
