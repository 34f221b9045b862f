package chdb

import "github.com/prometheus/client_golang/prometheus"

// collector shows an engine. It looks when it is asked.
type collector struct {
	engine *Engine

	running, waiting, slots, statements, spooled, spooledMax *prometheus.Desc
}

// Collector shows how much the engine has to do against what it may do at one time. The kind of a statement is insert, or query for all others.
func (e *Engine) Collector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sendhouse_chdb_"+name, help, labels, nil)
	}
	return &collector{
		engine:     e,
		running:    desc("running_statements", "Statements that run in the embedded ClickHouse.", "kind"),
		waiting:    desc("waiting_statements", "Statements that wait for their turn.", "kind"),
		slots:      desc("running_statements_max", "Statements that may run at one time.", "kind"),
		statements: desc("statements_total", "Statements that have ended."),
		spooled:    desc("spooled_bytes", "Data of inserts on their way in, on disk."),
		spooledMax: desc("spooled_bytes_max", "Data that may be on its way in; more is refused."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.running, c.waiting, c.slots, c.statements, c.spooled, c.spooledMax} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for kind, limit := range map[string]*limiter{"query": c.engine.queries, "insert": c.engine.inserts} {
		ch <- prometheus.MustNewConstMetric(c.running, prometheus.GaugeValue, float64(len(limit.slots)), kind)
		ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(limit.waiting.Load()), kind)
		ch <- prometheus.MustNewConstMetric(c.slots, prometheus.GaugeValue, float64(cap(limit.slots)), kind)
	}
	ch <- prometheus.MustNewConstMetric(c.statements, prometheus.CounterValue, float64(c.engine.finished.Load()))
	ch <- prometheus.MustNewConstMetric(c.spooled, prometheus.GaugeValue, float64(c.engine.spooled.Load()))
	ch <- prometheus.MustNewConstMetric(c.spooledMax, prometheus.GaugeValue, float64(c.engine.config.SpoolBytesMax))
}
