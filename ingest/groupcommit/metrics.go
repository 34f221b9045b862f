package groupcommit

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of a Committer.
type metrics struct {
	gatherDuration prometheus.Histogram
	ackDuration    prometheus.Histogram
	answerDuration prometheus.Histogram
	batchSends     prometheus.Histogram
	batchBytes     prometheus.Histogram
	lateAnswers    prometheus.Counter
}

// newMetrics registers the metrics, and reports every one that fails to register.
func newMetrics(reg prometheus.Registerer, committer *Committer) (*metrics, error) {
	var errs []error
	register := func(c prometheus.Collector) {
		if err := reg.Register(c); err != nil {
			errs = append(errs, err)
		}
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sendhouse_ingest_" + name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		})
		register(h)
		return h
	}
	seconds := []float64{.0005, .001, .002, .004, .008, .015, .03, .06, .125, .25, .5, 1, 2.5, 5}
	m := &metrics{
		gatherDuration: histogram("gather_duration_seconds", "From the first send of a group commit until it is published.", seconds),
		ackDuration:    histogram("ack_duration_seconds", "From publishing a group commit until the write-ahead log acknowledged it. Excludes those whose answer came first.", seconds),
		answerDuration: histogram("answer_duration_seconds", "From publishing a group commit until the sequencer's answer.", seconds),
		batchSends:     histogram("batch_sends", "Sends in a group commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, batchSendsMax}),
		batchBytes:     histogram("batch_size_bytes", "Bytes of a group commit.", prometheus.ExponentialBuckets(256, 4, 8)),
		lateAnswers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sendhouse_ingest_late_answers_total", Help: "Answers of the sequencer for which no request was waiting any more.",
		}),
	}
	register(m.lateAnswers)
	register(newQueueCollector(committer))
	return m, errors.Join(errs...)
}

// gathered observes a batch that is about to be published.
func (m *metrics) gathered(b *batch) {
	m.batchSends.Observe(float64(b.sends))
	m.batchBytes.Observe(float64(len(b.bytes)))
	m.gatherDuration.Observe(b.published.Sub(b.gathered).Seconds())
}

// queueCollector exports what waits in each partition, and the limits. It reads the state when scraped, so the hot path
// maintains no gauges.
type queueCollector struct {
	committer *Committer

	sends, sendsMax, bytes, bytesMax *prometheus.Desc
	wait, waitMax, ready             *prometheus.Desc
}

func newQueueCollector(c *Committer) *queueCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sendhouse_ingest_"+name, help, labels, nil)
	}
	return &queueCollector{
		committer: c,
		sends:     desc("queue_sends", "Sends waiting for their group commit.", "partition"),
		sendsMax:  desc("queue_sends_max", "Sends that may wait, in each partition; more are answered 503."),
		bytes:     desc("queue_bytes", "Bytes waiting for their group commit.", "partition"),
		bytesMax:  desc("queue_bytes_max", "Bytes that may wait, in each partition; more are answered 503."),
		wait:      desc("wait_seconds", "The longest time that a send of the partition has waited for its answer so far.", "partition"),
		ready:     desc("partition_ready", "1 if a send to the partition would be answered now, as far as this process knows, else 0; /readyz says why.", "partition"),
		waitMax:   desc("wait_max_seconds", "Limit of sendhouse_ingest_wait_seconds in each partition while many sends wait; above it new ones are answered 503."),
	}
}

// Describe implements prometheus.Collector.
func (q *queueCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{q.sends, q.sendsMax, q.bytes, q.bytesMax, q.wait, q.waitMax, q.ready} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (q *queueCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	c := q.committer
	gauge(q.sendsMax, float64(c.SendsMax))
	gauge(q.bytesMax, float64(c.BytesMax))
	gauge(q.waitMax, c.WaitMax.Seconds())
	now := time.Now()
	for n, p := range c.partitions {
		label, load, ready := strconv.Itoa(n), c.Load(n), 0.
		gauge(q.sends, float64(load.Sends), label)
		gauge(q.bytes, float64(load.Bytes), label)
		gauge(q.wait, load.Wait.Seconds(), label)
		if _, reason := p.unready(now); reason == "" {
			ready = 1
		}
		gauge(q.ready, ready, label)
	}
}
