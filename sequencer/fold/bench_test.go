package fold_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

var benchParams = fold.Params{DedupWindow: 10 * time.Minute, DedupEntriesMax: 1_000_000}

// BenchmarkFold folds sends of the size that the load script makes, in records of
// 64, over many channels. One operation is one send.
func BenchmarkFold(b *testing.B) {
	for _, channels := range []int{1, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("channels=%d", channels), func(b *testing.B) {
			const perRecord = 64
			rng := rand.New(rand.NewPCG(1, 2))
			state := newState(b, benchParams)
			seq, n := uint64(0), 0
			var data []byte
			makeRecord := func(channel func(i int) int) fold.Record {
				data = data[:0]
				for i := range perRecord {
					n++
					var err error
					data, err = message.AppendSend(data, &message.Send{
						ChannelId: fmt.Sprintf("u%d@c%d", channel(i)%97, channel(i)), ChannelType: 1, FromUid: "u1",
						ClientMsgNo: fmt.Sprintf("1763900000-0-%d", n), RedDot: true, Payload: make([]byte, 70),
					})
					require.NoError(b, err)
				}
				seq++
				return fold.Record{StreamSeq: seq, Time: start.Add(time.Duration(n) * time.Microsecond), Rule: message.RuleNewest, Data: data}
			}
			var effects []fold.Effect
			step := func(r fold.Record) {
				var err error
				effects, err = state.Fold(r, effects[:0])
				require.NoError(b, err)
			}
			for c := 0; c < channels; c += perRecord { // every channel is known
				step(makeRecord(func(i int) int { return min(c+i, channels-1) }))
			}
			for n < 1_100_000 { // and the window is full
				step(makeRecord(func(int) int { return rng.IntN(channels) }))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for range (b.N + perRecord - 1) / perRecord {
				b.StopTimer()
				r := makeRecord(func(int) int { return rng.IntN(channels) })
				b.StartTimer()
				step(r)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sends/s")
		})
	}
}

// BenchmarkMemory reports what a million channels and a million entries of the
// window cost beyond the channels' names.
func BenchmarkMemory(b *testing.B) {
	const n = 1_000_000
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for range b.N {
		for _, part := range []string{"channel", "entry"} {
			before, names := heap(), 0
			state := newState(b, benchParams)
			var data []byte
			var effects []fold.Effect
			for i := range n {
				s := &message.Send{ChannelId: fmt.Sprintf("channel-%d", i), ChannelType: 2, FromUid: "u"}
				names += len(s.GetChannelId())
				if part == "entry" {
					s.ChannelId, s.ClientMsgNo, names = "c", fmt.Sprint(i), 0
				}
				var err error
				data, err = message.AppendSend(data[:0], s)
				require.NoError(b, err)
				effects, err = state.Fold(fold.Record{StreamSeq: uint64(i + 1), Time: start, Data: data}, effects[:0])
				require.NoError(b, err)
			}
			b.ReportMetric((heap()-before-float64(names))/n, "B/"+part)
			runtime.KeepAlive(state)
		}
	}
}

// BenchmarkSnapshot takes (take) and writes (write) a snapshot of a million
// channels and a full window.
func BenchmarkSnapshot(b *testing.B) {
	state := newState(b, benchParams)
	var data []byte
	for i := range 1_000_000 {
		var err error
		data, err = message.AppendSend(data[:0], &message.Send{ChannelId: fmt.Sprintf("channel-%d", i), ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint(i)})
		require.NoError(b, err)
		_, err = state.Fold(fold.Record{StreamSeq: uint64(i + 1), Time: start, Data: data}, nil)
		require.NoError(b, err)
	}
	b.Run("take", func(b *testing.B) {
		for range b.N {
			runtime.KeepAlive(state.Snapshot())
		}
	})
	b.Run("write", func(b *testing.B) {
		for range b.N {
			n, err := state.Snapshot().WriteTo(io.Discard)
			require.NoError(b, err)
			b.SetBytes(n)
		}
	})
}
