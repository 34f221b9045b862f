package ingest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// BenchmarkDecode is decoding and validating the example body, as it stands on the page.
func BenchmarkDecode(b *testing.B) {
	bodies := map[string]string{
		"example":   example,
		"person":    `{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"client_msg_no":"1712-1-77","from_uid":"u13","channel_id":"c4711","channel_type":1,"expire":0,"payload":"eyJ0eXBlIjoxLCJjb250ZW50IjoiSGVsbG8gV29ybGQsIHRoaXMgaXMgYSB0ZXN0IG1lc3NhZ2UgZm9yIGJlbmNoIn0="}`,
		"generated": `{"from_uid":"u13","channel_id":"c4711","channel_type":2,"payload":"aGk="}`,
		"64KiB":     `{"from_uid":"u13","channel_id":"c4711","channel_type":2,"client_msg_no":"1","payload":"` + strings.Repeat("aaaa", 64<<10/3) + `"}`,
	}
	for name, body := range bodies {
		b.Run(name, func(b *testing.B) {
			pool := newRequestPool(1 << 30)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r := pool.get()
				r.body = append(r.body, body...)
				if p := r.decode(); !p.ok() {
					b.Fatal(p)
				}
				if p := r.validate(64 << 10); !p.ok() {
					b.Fatal(p)
				}
				pool.put(r)
			}
		})
	}
}

// BenchmarkEncodingJSON is what the standard library takes for the same, without validating.
func BenchmarkEncodingJSON(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := referenceDecode([]byte(example)); err != nil {
			b.Fatal(err)
		}
	}
}

// toy answers every batch as soon as the log delivers it: the least a sequencer
// could cost.
func (b *bundle) toy() {
	for p := range b.service.partitions {
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

// load keeps n connections busy with raw HTTP/1.1, so that the client costs little,
// and returns when total requests are answered.
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
				m, err := conn.Read(in) // an answer fits one packet
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
	// On a machine that others use too, this says more than the rate. It includes the
	// client and, for BenchmarkHandler, the NATS server.
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

func benchBody(i int) string {
	return fmt.Sprintf(`{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"client_msg_no":"b-%d","from_uid":"u%d","channel_id":"c%d","channel_type":1,"expire":0,"payload":"eyJ0eXBlIjoxLCJjb250ZW50IjoiSGVsbG8gV29ybGQsIHRoaXMgaXMgYSB0ZXN0IG1lc3NhZ2UgZm9yIGJlbmNoIn0="}`, i, i%97, i%10000)
}

// BenchmarkHandler is the whole way: HTTP over loopback, group commit into an
// embedded server with fsync, a toy answerer.
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

// BenchmarkNothing is a chi handler that reads the body and answers a constant: what
// HTTP alone costs here.
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
