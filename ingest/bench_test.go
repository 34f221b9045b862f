package ingest

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/compat"
	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// toy answers every batch as soon as the log delivers it: the lower bound of a sequencer's cost.
func (b *bundle) toy() {
	for p := range int(b.service.topology) {
		nc := connect(b.t, b.server)
		js, err := jetstream.New(nc)
		require.NoError(b.t, err)
		consumer, err := js.OrderedConsumer(b.t.Context(), topology.WALStream(p), jetstream.OrderedConsumerConfig{})
		require.NoError(b.t, err)
		last := uint64(message.MakeID(1, p, 1))
		running, err := consumer.Consume(func(m jetstream.Msg) {
			out := make([]byte, 0, 4096)
			for rest := m.Data(); len(rest) > 0; {
				_, next, err := message.NextSend(rest)
				if err != nil {
					b.t.Error(err)
					return
				}
				rest = next
				last++
				a := message.Answer{MessageId: last, MessageSeq: 1}
				one, _ := a.MarshalVT()
				out = append(out, 0x0a, byte(len(one)))
				out = append(out, one...)
			}
			if err := nc.Publish(m.Headers().Get(topology.HeaderReply), out); err != nil {
				b.t.Error(err)
			}
		})
		require.NoError(b.t, err)
		b.t.Cleanup(running.Stop)
	}
}

// load keeps n connections busy with raw HTTP/1.1, so that the client costs little, and returns when total requests have
// been answered.
func load(b *testing.B, addr string, n, total int, body func(i int) string) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	var failed atomic.Int64
	b.ResetTimer()
	start, cpu := time.Now(), cpuTime(b)
	latencies := make([][]time.Duration, n)
	for c := range n {
		wg.Go(func() {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			in := make([]byte, 4096)
			out := make([]byte, 0, 1024)
			for {
				i := int(next.Add(1))
				if i > total {
					return
				}
				text := body(i)
				out = append(out[:0], "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "...)
				out = strconv.AppendInt(out, int64(len(text)), 10)
				out = append(out, "\r\n\r\n"...)
				out = append(out, text...)
				at := time.Now()
				if _, err := conn.Write(out); err != nil {
					b.Error(err)
					return
				}
				m, err := conn.Read(in) // a response fits in one packet
				if err != nil {
					b.Error(err)
					return
				}
				latencies[c] = append(latencies[c], time.Since(at))
				if !strings.HasPrefix(string(in[:m]), "HTTP/1.1 200") {
					if failed.Add(1) == 1 {
						b.Errorf("%s", in[:m])
					}
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	took := time.Since(start)
	// On a shared machine this is more meaningful than the rate. It includes the client and, for BenchmarkHandler, the NATS
	// server.
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(total), "cpu-µs/op")
	b.ReportMetric(float64(total)/took.Seconds(), "req/s")
	var all []time.Duration
	for _, l := range latencies {
		all = append(all, l...)
	}
	b.ReportMetric(quantile(all, .50), "p50-ms")
	b.ReportMetric(quantile(all, .99), "p99-ms")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkHandler measures the whole path: HTTP over loopback, group commit into an embedded server with fsync, and a toy
// sequencer.
func BenchmarkHandler(b *testing.B) {
	for _, n := range []int{1, 64, 256} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := setup(b, options{partitions: 4})
			s.toy()
			load(b, s.service.Addr().String(), n, b.N, benchBody)
			b.ReportMetric(float64(b.N)/s.metric("sendhouse_ingest_batch_sends", ""), "sends/batch")
		})
	}
}

// BenchmarkBulk is BenchmarkHandler for bulks of 100; an op is one message.
func BenchmarkBulk(b *testing.B) {
	s := setup(b, options{partitions: 4})
	s.toy()
	const each, clients = 100, 8
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	start, cpu := time.Now(), cpuTime(b)
	for range clients {
		wg.Go(func() {
			for {
				last := int(next.Add(each))
				if last-each >= b.N {
					return
				}
				var body strings.Builder
				for i := range each {
					body.WriteString(benchBody(last-i) + "\n")
				}
				res, err := s.client.Post(s.url+"/message/sendbulk", ndjson, strings.NewReader(body.String()))
				if err != nil {
					b.Error(err)
					return
				}
				raw, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if n := strings.Count(string(raw), `{"status":200,`); err != nil || n != each {
					b.Errorf("%d: %v: %s", n, err, raw[:min(len(raw), 300)])
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "messages/s")
	b.ReportMetric(float64(next.Load())/s.metric("sendhouse_ingest_batch_sends", ""), "sends/batch")
}

// BenchmarkNothing measures a chi handler that reads the body and answers a constant: the cost of HTTP alone.
func BenchmarkNothing(b *testing.B) {
	for _, n := range []int{1, 64, 256} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := chi.NewRouter()
			r.Post("/message/send", func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"message_id":1,"message_idstr":"1","message_seq":1,"client_msg_no":"client_msg_123"}`)
			})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(b, err)
			server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
			go func() { _ = server.Serve(l) }()
			defer server.Close()
			load(b, l.Addr().String(), n, b.N, benchBody)
		})
	}
}

// quantile returns the q-quantile of d in milliseconds.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[int(q*float64(len(d)-1))]) / float64(time.Millisecond)
}

// BenchmarkTracing is BenchmarkHandler at 64 connections with tracing off, which is the default, and with a share of the
// requests traced, whose spans go to a collector that discards them.
func BenchmarkTracing(b *testing.B) {
	for _, row := range []struct {
		name string
		cfg  tracing.Config
	}{
		{"off", tracing.Config{}},
		{"share=0", tracing.Config{TraceRatio: 0, OTLPEndpoint: "collector"}},
		{"share=0.01", tracing.Config{TraceRatio: 0.01, OTLPEndpoint: "collector"}},
		{"share=1", tracing.Config{TraceRatio: 1, OTLPEndpoint: "collector"}},
	} {
		b.Run(row.name, func(b *testing.B) {
			if row.cfg.OTLPEndpoint != "" {
				collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
				b.Cleanup(collector.Close)
				row.cfg.OTLPEndpoint = collector.URL
			}
			provider, err := tracing.New(b.Context(), row.cfg, tracing.Deps{Service: "bench", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, provider.Close()) })
			s := setup(b, options{partitions: 4, tracer: provider.Tracer("ingest")})
			s.toy()
			load(b, s.service.Addr().String(), 64, b.N, benchBody)
		})
	}
}

// BenchmarkCompat is BenchmarkHandler at 64 connections without and with the mode for WuKongIM's callers.
func BenchmarkCompat(b *testing.B) {
	for _, mode := range []string{compat.Off, compat.WuKongIM} {
		b.Run(mode, func(b *testing.B) {
			s := setup(b, options{partitions: 4, config: func(c *Config) { c.APICompat = mode }})
			s.toy()
			load(b, s.service.Addr().String(), 64, b.N, benchBody)
		})
	}
}

// BenchmarkTracingOff measures what tracing adds to a request when it is off: the tracing calls of a send that is alone in
// its group commit.
func BenchmarkTracingOff(b *testing.B) {
	provider, err := tracing.New(b.Context(), tracing.Config{}, tracing.Deps{Service: "bench", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	require.NoError(b, err)
	s := &Service{tracer: provider.Tracer("ingest")}
	r := httptest.NewRequest(http.MethodPost, "http://localhost/message/send", strings.NewReader(example))
	var samples tracing.Samples
	start := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		request, span := s.traced(r, start)
		samples.Add(0, s.tracer.Of(request.Context()))
		commit := s.tracer.Batch("group commit", start, samples)
		commit.End()
		if span != nil || commit != nil {
			b.Fatal("something is traced")
		}
	}
}

func TestReplyAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts those of other goroutines too
	dst, no := make([]byte, 0, 512), []byte("client_msg_123 \"é\"")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_ = appendReply(dst, groupcommit.Answer{MessageID: 1 << 62, MessageSeq: 1}, no, nil)
	}))
}
