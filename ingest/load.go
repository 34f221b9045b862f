package ingest

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// loadCollector shows how much there is of everything that has a limit, beside the limit. It looks when it is
// asked, so that the hot path keeps no gauges.
type loadCollector struct {
	s *Service

	requests, requestsMax, bodyBytes, bodyBytesMax *prometheus.Desc
	connections, connectionsMax, certificateExpiry *prometheus.Desc
	sends, sendsMax, bytes, bytesMax               *prometheus.Desc
	wait, waitMax, ready                           *prometheus.Desc
}

func newLoadCollector(s *Service) *loadCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sendhouse_ingest_"+name, help, labels, nil)
	}
	return &loadCollector{
		s:              s,
		requests:       desc("in_flight_requests", "Requests being worked on."),
		requestsMax:    desc("in_flight_requests_max", "Requests that may be worked on at one time; more are answered 503."),
		bodyBytes:      desc("body_bytes", "Memory of the request bodies being worked on, but for the first 2 KiB of each."),
		bodyBytesMax:   desc("body_bytes_max", "Memory that request bodies may take; more are answered 503."),
		connections:    desc("connections", "Connections of the HTTP API that are open."),
		connectionsMax: desc("connections_max", "Connections that may be open; further ones are answered 503."),
		// Only where the API speaks TLS.
		certificateExpiry: desc("tls_certificate_expiry_timestamp_seconds", "When the certificate of the HTTP API expires, in seconds since 1970."),

		sends:    desc("queue_sends", "Sends that wait for their group commit.", "partition"),
		sendsMax: desc("queue_sends_max", "Sends that may wait, in each partition; more are answered 503."),
		bytes:    desc("queue_bytes", "Bytes that wait for their group commit.", "partition"),
		bytesMax: desc("queue_bytes_max", "Bytes that may wait, in each partition; more are answered 503."),
		wait:     desc("wait_seconds", "How long the send that has waited longest for its answer has done so.", "partition"),
		ready:    desc("partition_ready", "1 if a send to the partition would be answered now, as far as this process knows, else 0; /readyz says why.", "partition"),
		waitMax:  desc("wait_max_seconds", "How long that may be, in each partition, while many wait; new ones are then answered 503."),
	}
}

// Describe implements prometheus.Collector.
func (c *loadCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.requestsMax, c.connections, c.connectionsMax, c.certificateExpiry, c.bodyBytes, c.bodyBytesMax, c.sends, c.sendsMax, c.bytes, c.bytesMax, c.wait, c.waitMax, c.ready} {
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
	gauge(c.connections, c.s.connections.Load())
	gauge(c.connectionsMax, int64(cfg.ConnectionsMax))
	gauge(c.bodyBytes, int64(cfg.BodiesBytesMax)-c.s.requests.budget.left.Load())
	gauge(c.bodyBytesMax, int64(cfg.BodiesBytesMax))
	gauge(c.sendsMax, int64(cfg.QueueSendsMax))
	gauge(c.bytesMax, int64(cfg.QueueBytesMax))
	seconds := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	seconds(c.waitMax, cfg.WaitMax.Seconds())
	if c.s.certificates != nil {
		gauge(c.certificateExpiry, c.s.certificates.expiry().Unix())
	}
	now := time.Now()
	for _, p := range c.s.partitions {
		p.mu.Lock()
		sends, bytes, wait := p.sends, p.bytes, p.longestWait()
		p.mu.Unlock()
		label := strconv.Itoa(p.number)
		gauge(c.sends, int64(sends), label)
		gauge(c.bytes, int64(bytes), label)
		seconds(c.wait, wait.Seconds(), label)
		ready := int64(0)
		if _, reason := p.unready(now); reason == "" {
			ready = 1
		}
		gauge(c.ready, ready, label)
	}
}
