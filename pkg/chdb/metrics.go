package chdb

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

// LoadPath is where the HTTP interface answers the owner with the engine's Load, as JSON.
const LoadPath = "/load"

// Load is how much an engine has to do against what it may do at one time.
type Load struct {
	Kinds           map[string]KindLoad // By kind of statement: insert, reader (queries of clients without a password), or query for all others.
	Statements      int64               // That have ended.
	SpooledBytes    int64               // Data of inserts on their way in, on disk.
	SpooledBytesMax int64               // Data that may be on its way in; more is refused.
	ResidentBytes   int64               // Memory of the engine's process. 0: the system does not tell it in /proc.
}

// KindLoad is a kind of statements.
type KindLoad struct {
	Running, Waiting, RunningMax int64
}

// Load looks at the engine.
func (e *Engine) Load() Load {
	load := Load{
		Kinds: make(map[string]KindLoad), Statements: e.finished.Load(), SpooledBytes: e.spooled.Load(), SpooledBytesMax: e.config.SpoolBytesMax,
		ResidentBytes: residentBytes(),
	}
	for kind, limit := range map[string]*limiter{"query": e.queries, "insert": e.inserts, "reader": e.readers} {
		load.Kinds[kind] = KindLoad{Running: int64(len(limit.slots)), Waiting: limit.waiting.Load(), RunningMax: int64(cap(limit.slots))}
	}
	return load
}

func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0 // As on systems other than Linux.
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}

func (e *Engine) serveLoad(w http.ResponseWriter, r *http.Request) {
	if identityOf(r) != owner {
		newResponder(w, e, "").fail(readerRefusal(LoadPath + " is"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(e.Load()); err != nil {
		e.log.Debug("ClickHouse client went away", "error", err)
	}
}

// collector shows an engine. It looks when it is asked.
type collector struct {
	load func() (Load, error)

	running, waiting, slots, statements, spooled, spooledMax, resident *prometheus.Desc
}

// NewCollector shows what load returns. While that is an error, nothing is shown.
func NewCollector(load func() (Load, error)) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sendhouse_chdb_"+name, help, labels, nil)
	}
	return &collector{
		load:       load,
		running:    desc("running_statements", "Statements that run in the embedded ClickHouse.", "kind"),
		waiting:    desc("waiting_statements", "Statements that wait for their turn.", "kind"),
		slots:      desc("running_statements_max", "Statements that may run at one time.", "kind"),
		statements: desc("statements_total", "Statements that have ended."),
		spooled:    desc("spooled_bytes", "Data of inserts on their way in, on disk."),
		spooledMax: desc("spooled_bytes_max", "Data that may be on its way in; more is refused."),
		resident:   desc("resident_bytes", "Resident memory of the process of the embedded ClickHouse."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.running, c.waiting, c.slots, c.statements, c.spooled, c.spooledMax, c.resident} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	load, err := c.load()
	if err != nil {
		return // That it is away is shown elsewhere.
	}
	for kind, of := range load.Kinds {
		ch <- prometheus.MustNewConstMetric(c.running, prometheus.GaugeValue, float64(of.Running), kind)
		ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(of.Waiting), kind)
		ch <- prometheus.MustNewConstMetric(c.slots, prometheus.GaugeValue, float64(of.RunningMax), kind)
	}
	ch <- prometheus.MustNewConstMetric(c.statements, prometheus.CounterValue, float64(load.Statements))
	ch <- prometheus.MustNewConstMetric(c.spooled, prometheus.GaugeValue, float64(load.SpooledBytes))
	ch <- prometheus.MustNewConstMetric(c.spooledMax, prometheus.GaugeValue, float64(load.SpooledBytesMax))
	ch <- prometheus.MustNewConstMetric(c.resident, prometheus.GaugeValue, float64(load.ResidentBytes))
}
