package ingest

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/ingest/outcome"
)

// metrics are the metrics of the role. Every child is resolved at the start, so the hot path performs no lookups.
type metrics struct {
	requests        [outcome.Count]prometheus.Counter
	items           [outcome.Count]prometheus.Counter // sends of requests with many sends
	requestDuration *prometheus.HistogramVec          // by route
	decodeDuration  prometheus.Histogram
}

// newMetrics registers the role's metrics, and reports every one that fails to register.
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
	seconds := []float64{.0005, .001, .002, .004, .008, .015, .03, .06, .125, .25, .5, 1, 2.5, 5}
	micros := []float64{1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 64e-6, 256e-6, .001, .004, .016, .25}

	m := &metrics{
		requestDuration: prometheus.NewHistogramVec(histogramOpts("request_duration_seconds", "From the header of a request to its answer, by route.", seconds), []string{"route"}),
		decodeDuration:  prometheus.NewHistogram(histogramOpts("decode_duration_seconds", "From the header of a request until it is checked, including reading the body. Sampled: one request in 16.", micros)),
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_ingest_requests_total", Help: "Requests answered, by HTTP status and outcome.",
	}, []string{"code", "reason"})
	items := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_ingest_items_total", Help: "Sends of sendbatch and sendbulk answered, by status and outcome.",
	}, []string{"code", "reason"})
	for o := range outcome.Count {
		s := o.Spec()
		m.items[o] = items.WithLabelValues(strconv.Itoa(s.Status), s.Code)
		m.requests[o] = requests.WithLabelValues(strconv.Itoa(s.Status), s.Code)
	}
	register(m.requestDuration)
	register(m.decodeDuration)
	register(requests)
	register(items)
	register(load)
	return m, errors.Join(errs...)
}

// loadCollector exports the usage of everything that has a limit, and the limit. It reads the state when scraped, so the
// hot path maintains no gauges.
type loadCollector struct {
	s *Service

	requests, requestsMax, bodyBytes, bodyBytesMax *prometheus.Desc
	connections, connectionsMax, certificateExpiry *prometheus.Desc
}

func newLoadCollector(s *Service) *loadCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("sendhouse_ingest_"+name, help, nil, nil)
	}
	return &loadCollector{
		s:              s,
		requests:       desc("in_flight_requests", "Requests in flight."),
		requestsMax:    desc("in_flight_requests_max", "Requests that may be in flight; more are answered 503."),
		bodyBytes:      desc("body_bytes", "Memory of the request bodies in flight, excluding the first 2 KiB of each."),
		bodyBytesMax:   desc("body_bytes_max", "Memory that request bodies may take; more are answered 503."),
		connections:    desc("connections", "Open connections of the HTTP API."),
		connectionsMax: desc("connections_max", "Connections that may be open; further ones are answered 503."),
		// Set only if the API uses TLS.
		certificateExpiry: desc("tls_certificate_expiry_timestamp_seconds", "When the certificate of the HTTP API expires, in seconds since 1970."),
	}
}

// Describe implements prometheus.Collector.
func (c *loadCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.requestsMax, c.connections, c.connectionsMax, c.certificateExpiry, c.bodyBytes, c.bodyBytesMax} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *loadCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	cfg := &c.s.cfg
	gauge(c.requests, c.s.inFlight.Load())
	gauge(c.requestsMax, int64(cfg.RequestsMax))
	gauge(c.connections, c.s.listener.Open())
	gauge(c.connectionsMax, int64(cfg.ConnectionsMax))
	gauge(c.bodyBytes, int64(cfg.BodiesBytesMax)-c.s.requests.Budget.Left())
	gauge(c.bodyBytesMax, int64(cfg.BodiesBytesMax))
	if expiry, ok := c.s.access.CertificateExpiry(); ok {
		gauge(c.certificateExpiry, expiry.Unix())
	}
}
