package ingest

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what the role shows of itself. Every child is resolved here, so that
// the hot path looks nothing up.
type metrics struct {
	requests         [outcomes]prometheus.Counter
	items            [outcomes]prometheus.Counter // of requests that hold many sends
	requestDuration  *prometheus.HistogramVec     // by route
	decodeDuration   prometheus.Histogram
	gatherDuration   prometheus.Histogram
	ackDuration      prometheus.Histogram
	answerDuration   prometheus.Histogram
	batchSends       prometheus.Histogram
	batchBytes       prometheus.Histogram
	lateAnswers      prometheus.Counter
	handshakesFailed prometheus.Counter
	// payloadViolations is by the rule's name, for every name that there is.
	payloadViolations map[string]prometheus.Counter
}

// newMetrics registers the role's metrics, and reports every one that could not be.
func newMetrics(reg prometheus.Registerer, load prometheus.Collector) (*metrics, error) {
	var errs []error
	register := func(c prometheus.Collector) {
		if err := reg.Register(c); err != nil {
			errs = append(errs, err)
		}
	}
	histogramOpts := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Name: "sendhouse_ingest_" + name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(histogramOpts(name, help, buckets))
		register(h)
		return h
	}
	seconds := []float64{.0005, .001, .002, .004, .008, .015, .03, .06, .125, .25, .5, 1, 2.5, 5}
	micros := []float64{1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 64e-6, 256e-6, .001, .004, .016, .25}

	m := &metrics{
		requestDuration: prometheus.NewHistogramVec(histogramOpts("request_duration_seconds", "From the header of a request to its answer, by route.", seconds), []string{"route"}),
		decodeDuration:  histogram("decode_duration_seconds", "From the header of a request until it is checked; includes reading the body. Of one request in 16.", micros),
		gatherDuration:  histogram("gather_duration_seconds", "From the first send of a group commit until it is published.", seconds),
		ackDuration:     histogram("ack_duration_seconds", "From publishing a group commit until the write-ahead log acknowledged it. Not of those whose answer came first.", seconds),
		answerDuration:  histogram("answer_duration_seconds", "From publishing a group commit until the sequencer's answer.", seconds),
		batchSends:      histogram("batch_sends", "Sends in a group commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, batchSendsMax}),
		batchBytes:      histogram("batch_size_bytes", "Bytes of a group commit.", prometheus.ExponentialBuckets(256, 4, 8)),
		lateAnswers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sendhouse_ingest_late_answers_total", Help: "Answers of the sequencer that nobody waited for any more.",
		}),
	}
	m.handshakesFailed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sendhouse_ingest_tls_handshakes_failed_total", Help: "TLS handshakes that failed, or did not end in time.",
	})
	register(m.handshakesFailed)
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_ingest_requests_total", Help: "Requests answered, by HTTP status and by what became of them.",
	}, []string{"code", "reason"})
	items := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_ingest_items_total", Help: "Sends of sendbatch and sendbulk answered, by status and by what became of them.",
	}, []string{"code", "reason"})
	for o := range outcomes {
		s := o.spec()
		m.items[o] = items.WithLabelValues(strconv.Itoa(s.status), s.code)
		m.requests[o] = requests.WithLabelValues(strconv.Itoa(s.status), s.code)
	}
	m.payloadViolations = make(map[string]prometheus.Counter)
	violations := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_ingest_payload_violations_total", Help: "Sends whose payload breaks a rule, by the rule; taken or refused, as ingest-payload-rules says.",
	}, []string{"rule"})
	for _, rule := range payloadRuleNames(payloadRuleTable()) {
		m.payloadViolations[rule] = violations.WithLabelValues(rule)
	}
	register(m.requestDuration)
	register(violations)
	register(requests)
	register(items)
	register(m.lateAnswers)
	register(load)
	return m, errors.Join(errs...)
}

// gathered is told of each batch that leaves.
func (m *metrics) gathered(b *batch) {
	m.batchSends.Observe(float64(b.sends))
	m.batchBytes.Observe(float64(len(b.bytes)))
	m.gatherDuration.Observe(b.published.Sub(b.gathered).Seconds())
}
