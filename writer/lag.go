package writer

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// oldest tracks when the oldest message of a partition that is not in ClickHouse was accepted. The times are the
// broker's. A time ahead of this process's clock counts as the moment at which it was first seen, so that the age grows
// regardless of the broker's clock.
type oldest struct {
	unixMilli atomic.Int64 // 0: all messages are in ClickHouse

	mu    sync.Mutex
	shown time.Time // the last time that accepted was called with
}

func (o *oldest) none() { o.unixMilli.Store(0) }

func (o *oldest) accepted(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.unixMilli.Load() != 0 && at.Equal(o.shown) {
		return
	}
	o.shown = at
	if now := time.Now(); at.After(now) {
		at = now
	}
	o.unixMilli.Store(at.UnixMilli())
}

// insertedUpTo records that no message outside ClickHouse is older than newest. The next look at the stream finds out
// whether there is any.
func (o *oldest) insertedUpTo(newest time.Time) {
	if o.unixMilli.Load() != 0 {
		o.accepted(newest)
	}
}

// age returns 0 if there is no such message.
func (o *oldest) age() time.Duration {
	at := o.unixMilli.Load()
	if at == 0 {
		return 0
	}
	return max(time.Since(time.UnixMilli(at)), 0)
}

// lagCollector computes the age of the oldest message outside ClickHouse at scrape time, so that it grows while nothing
// else changes. It covers the partitions that this instance holds.
type lagCollector struct {
	desc *prometheus.Desc

	mu   sync.Mutex
	held map[int]*oldest
}

func newLagCollector() *lagCollector {
	return &lagCollector{
		desc: prometheus.NewDesc(namespace+"_"+subsystem+"_lag_seconds", "Age of the oldest message that is not in ClickHouse yet; 0 if there is none.", []string{"partition"}, nil),
		held: make(map[int]*oldest),
	}
}

func (c *lagCollector) take(partition int) *oldest {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := new(oldest)
	c.held[partition] = o
	return o
}

func (c *lagCollector) forget(partition int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, partition)
}

// Describe implements prometheus.Collector.
func (c *lagCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *lagCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for partition, o := range c.held {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, o.age().Seconds(), strconv.Itoa(partition))
	}
}
