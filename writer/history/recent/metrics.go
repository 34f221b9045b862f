package recent

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	waitSeconds prometheus.Histogram
	failures    prometheus.Counter
	overflows   prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		waitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sendhouse_history_tail_wait_seconds", Help: "Time that client reads waited until the tail of the message log had what was answered before them.",
			Buckets: prometheus.ExponentialBuckets(.00025, 4, 8), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sendhouse_history_tail_failures_total", Help: "Times that the message log could not be followed for client reads.",
		}),
		overflows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sendhouse_history_tail_overflows_total", Help: "Times that the tail of a partition became incomplete: it reached its limit of memory, or the message log lacked messages.",
		}),
	}
}

func (m *metrics) register(reg prometheus.Registerer, l *Log) error {
	gauge := func(name, help string, of func(*follower) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() (sum float64) {
			for _, f := range l.followers {
				f.mu.Lock()
				if f.open {
					sum += of(f)
				}
				f.mu.Unlock()
			}
			return sum
		})
	}
	one := func(is bool) float64 {
		if is {
			return 1
		}
		return 0
	}
	return errors.Join(reg.Register(m.waitSeconds), reg.Register(m.failures), reg.Register(m.overflows),
		reg.Register(gauge("sendhouse_history_tail_bytes", "Memory of the messages that are kept for client reads until they are in ClickHouse.",
			func(f *follower) float64 { return float64(f.tail.bytes) })),
		reg.Register(gauge("sendhouse_history_tail_messages", "Messages that are kept for client reads until they are in ClickHouse.",
			func(f *follower) float64 { return float64(len(f.tail.items)) })),
		reg.Register(gauge("sendhouse_history_tail_partitions", "Partitions whose message log is followed, because clients read them.",
			func(*follower) float64 { return 1 })),
		reg.Register(gauge("sendhouse_history_tail_incomplete_partitions", "Of those, partitions with messages that are neither in the tail nor, as far as is recorded, in ClickHouse.",
			func(f *follower) float64 { return one(!f.tail.complete()) })))
}
