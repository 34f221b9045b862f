package broker

import (
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// connectionCollector shows one connection to NATS. It looks when it is asked.
type connectionCollector struct {
	c    *Connection
	mu   sync.Mutex
	last nats.Statistics // while the connection stood

	connected, reconnects                          *prometheus.Desc
	sentMessages, sentBytes, gotMessages, gotBytes *prometheus.Desc
}

// ConnectionCollector shows a connection under the given name: whether it is up, how often it was made
// again, and what went over it.
func ConnectionCollector(name string, c *Connection) prometheus.Collector {
	desc := func(metric, help string) *prometheus.Desc {
		return prometheus.NewDesc("sendhouse_nats_"+metric, help, nil, prometheus.Labels{"connection": name})
	}
	return &connectionCollector{
		c:            c,
		connected:    desc("connected", "1 while the connection to NATS stands, else 0."),
		reconnects:   desc("reconnects_total", "Times that the connection was made again."),
		sentMessages: desc("sent_messages_total", "Messages that were sent over the connection."),
		sentBytes:    desc("sent_bytes_total", "Bytes of messages that were sent over the connection."),
		gotMessages:  desc("received_messages_total", "Messages that came over the connection."),
		gotBytes:     desc("received_bytes_total", "Bytes of messages that came over the connection."),
	}
}

// Describe implements prometheus.Collector.
func (c *connectionCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connected, c.reconnects, c.sentMessages, c.sentBytes, c.gotMessages, c.gotBytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *connectionCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	connected := 0.0
	if c.c.Connected() {
		connected, c.last = 1, c.c.nc.Stats()
	}
	s := c.last
	ch <- prometheus.MustNewConstMetric(c.connected, prometheus.GaugeValue, connected)
	ch <- prometheus.MustNewConstMetric(c.reconnects, prometheus.CounterValue, float64(s.Reconnects))
	ch <- prometheus.MustNewConstMetric(c.sentMessages, prometheus.CounterValue, float64(s.OutMsgs))
	ch <- prometheus.MustNewConstMetric(c.sentBytes, prometheus.CounterValue, float64(s.OutBytes))
	ch <- prometheus.MustNewConstMetric(c.gotMessages, prometheus.CounterValue, float64(s.InMsgs))
	ch <- prometheus.MustNewConstMetric(c.gotBytes, prometheus.CounterValue, float64(s.InBytes))
}

// embeddedCollector shows the embedded server. It looks when it is asked.
type embeddedCollector struct {
	e *Embedded

	connections, subscriptions, slow, reserved, storageMax *prometheus.Desc
	fault, restarts                                        *prometheus.Desc
}

// Collector shows the server: its clients, and how much of its storage the streams have reserved.
func (e *Embedded) Collector() prometheus.Collector {
	desc := func(metric, help string) *prometheus.Desc {
		return prometheus.NewDesc("sendhouse_nats_server_"+metric, help, nil, nil)
	}
	return &embeddedCollector{
		e:             e,
		connections:   desc("connections", "Clients of the embedded NATS server."),
		subscriptions: desc("subscriptions", "Subscriptions of its clients."),
		slow:          desc("slow_consumers_total", "Clients that were cut off because they did not take what was sent to them."),
		reserved:      desc("storage_reserved_bytes", "Storage that the streams have reserved: the sum of their limits."),
		storageMax:    desc("storage_bytes_max", "Storage that JetStream may use."),
		fault:         desc("storage_fault", "1 while the embedded NATS server cannot write to its files, else 0."),
		restarts:      desc("restarts_total", "Times that the embedded NATS server was restarted within the process because it could not write to its files."),
	}
}

// Describe implements prometheus.Collector.
func (c *embeddedCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connections, c.subscriptions, c.slow, c.reserved, c.storageMax, c.fault, c.restarts} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Of a server that has been shut down there is nothing to show.
func (c *embeddedCollector) Collect(ch chan<- prometheus.Metric) {
	fault := 0.0
	if c.e.Check() != nil {
		fault = 1
	}
	ch <- prometheus.MustNewConstMetric(c.fault, prometheus.GaugeValue, fault)
	ch <- prometheus.MustNewConstMetric(c.restarts, prometheus.CounterValue, float64(c.e.restarts.Load()))
	s := c.e.server.Load()
	if s == nil {
		return
	}
	config := s.JetStreamConfig()
	if config == nil {
		return
	}
	_, reserved, err := s.JetStreamReservedResources()
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.connections, prometheus.GaugeValue, float64(s.NumClients()))
	ch <- prometheus.MustNewConstMetric(c.subscriptions, prometheus.GaugeValue, float64(s.NumSubscriptions()))
	ch <- prometheus.MustNewConstMetric(c.slow, prometheus.CounterValue, float64(s.NumSlowConsumers()))
	ch <- prometheus.MustNewConstMetric(c.reserved, prometheus.GaugeValue, float64(reserved))
	ch <- prometheus.MustNewConstMetric(c.storageMax, prometheus.GaugeValue, float64(config.MaxStore))
}
