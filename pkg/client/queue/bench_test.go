package queue_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/queue"
)

// BenchmarkQueue enqueues b.N sends from 64 callers, one each time, and then drains them to a real server. For the figures of a million:
//
//	go test -run '^$' -bench BenchmarkQueue -benchtime 1000000x ./pkg/client/queue
//
// The server's NATS is in this process, and its memory too. SENDHOUSE_URL names a server elsewhere.
func BenchmarkQueue(b *testing.B) {
	for _, channels := range []int{1000, 1} {
		b.Run(fmt.Sprintf("channels=%d", channels), func(b *testing.B) {
			url := os.Getenv("SENDHOUSE_URL")
			if url == "" {
				url = house.URL()
			}
			c, err := client.New(client.Config{URL: url})
			require.NoError(b, err)
			defer c.Close()
			q, err := queue.Open(queue.Config{Dir: b.TempDir(), Client: c, BytesMax: 4 << 30})
			require.NoError(b, err)
			defer func() { require.NoError(b, q.Close()) }()
			payload := make([]byte, 100)
			b.ResetTimer()
			callers := make(chan error, 64)
			for caller := range cap(callers) {
				go func() {
					var err error
					for n := caller; n < b.N && err == nil; n += cap(callers) {
						_, err = q.Enqueue(b.Context(), client.Send{FromUID: "bench", ChannelType: client.ChannelGroup, ChannelID: fmt.Sprint(b.Name()[15:], n%channels), Payload: payload})
					}
					callers <- err
				}()
			}
			for range cap(callers) {
				require.NoError(b, <-callers)
			}
			enqueued := b.Elapsed()
			b.ReportMetric(float64(b.N)/enqueued.Seconds(), "enqueued/s")
			runtime.GC()
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			b.ReportMetric(float64(memory.HeapAlloc>>20), "MiB-heap-full")
			b.ReportMetric(float64(q.Stats().FileBytes>>20), "MiB-files-full")
			ctx, stop := context.WithCancel(b.Context())
			ran := make(chan error, 1)
			go func() { ran <- q.Run(ctx) }()
			require.NoError(b, q.Flush(b.Context()))
			b.ReportMetric(float64(b.N)/(b.Elapsed()-enqueued).Seconds(), "drained/s")
			b.ReportMetric(float64(q.Stats().FileBytes>>10), "KiB-files-empty")
			runtime.ReadMemStats(&memory)
			b.ReportMetric(float64(memory.Sys>>20), "MiB-sys")
			stop()
			require.NoError(b, <-ran)
			require.Zero(b, q.Stats().DeadLetters)
		})
	}
}
