package load

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are counted in microseconds, with three digits, up to ten minutes.
const (
	latencyMaxMicros = int64(10 * time.Minute / time.Microsecond)
	latencyDigits    = 3
	recordShards     = 4
	refusalsKept     = 5 // described; all are counted
)

// recorder collects what is measured. Workers write to shards of it.
type recorder struct {
	from   time.Time // sends due before are not measured
	shards [recordShards]recordShard

	againCount atomic.Uint64 // answers that said to try again

	mu       sync.Mutex
	refused  map[string]uint64 // sends, by status and code
	refusals []string
}

type recordShard struct {
	sync.Mutex
	tally
	window *hdrhistogram.Histogram // since the last line of progress
}

// tally is what is counted.
type tally struct {
	latency, service  *hdrhistogram.Histogram
	sends, duplicates uint64 // measured and answered
	all               uint64 // answered, warm-up included
	payload           uint64 // bytes of those measured
	requests, retries uint64
	last              time.Time // when the last was answered
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMaxMicros, latencyDigits)
}

func newRecorder(from time.Time) *recorder {
	r := &recorder{from: from, refused: make(map[string]uint64)}
	for i := range r.shards {
		s := &r.shards[i]
		s.latency, s.service, s.window = newHistogram(), newHistogram(), newHistogram()
	}
	return r
}

// sample is one request whose sends have all been answered, or given up.
type sample struct {
	due, sent, answered time.Time
	sends, duplicates   int // answered 200
	payload             int
	requests            int // attempts
}

func (r *recorder) add(worker int, m sample) {
	s := &r.shards[worker%recordShards]
	latency, service := micros(m.answered.Sub(m.due)), micros(m.answered.Sub(m.sent))
	s.Lock()
	defer s.Unlock()
	s.requests += uint64(m.requests)
	s.retries += uint64(m.requests - 1)
	s.all += uint64(m.sends)
	if m.sends == 0 {
		return
	}
	_ = s.window.RecordValue(latency) // micros keeps it in the range
	if m.due.Before(r.from) {
		return
	}
	_ = s.latency.RecordValue(latency)
	_ = s.service.RecordValue(service)
	s.sends += uint64(m.sends)
	s.duplicates += uint64(m.duplicates)
	s.payload += uint64(m.payload)
	if m.answered.After(s.last) {
		s.last = m.answered
	}
}

func micros(d time.Duration) int64 {
	return min(max(d.Microseconds(), 1), latencyMaxMicros)
}

func (r *recorder) refuse(m send, a *answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := fmt.Sprintf("%d %s", a.status, a.code)
	r.refused[key]++
	if len(r.refusals) < refusalsKept {
		r.refusals = append(r.refusals, fmt.Sprintf("send %d: %s: %s", m.n, key, a.text))
	}
}

// takeWindow takes the latencies since the last call, and how many sends were answered in all.
func (r *recorder) takeWindow(into *hdrhistogram.Histogram) (all uint64) {
	into.Reset()
	for i := range r.shards {
		s := &r.shards[i]
		s.Lock()
		into.Merge(s.window)
		s.window.Reset()
		all += s.all
		s.Unlock()
	}
	return all
}

// total adds the shards up. The workers must have ended.
func (r *recorder) total() tally {
	out := tally{latency: newHistogram(), service: newHistogram()}
	for i := range r.shards {
		s := &r.shards[i]
		out.latency.Merge(s.latency)
		out.service.Merge(s.service)
		out.sends += s.sends
		out.duplicates += s.duplicates
		out.all += s.all
		out.payload += s.payload
		out.requests += s.requests
		out.retries += s.retries
		if s.last.After(out.last) {
			out.last = s.last
		}
	}
	return out
}
