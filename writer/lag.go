package writer

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// oldest is when the oldest message of a partition was accepted that is not in ClickHouse. The times are the broker's; one
// that is ahead of this process's clock counts as the moment at which it was first seen, so that the age grows whatever the
// broker's clock shows.
type oldest struct {
	unixMilli atomic.Int64 // 0: all are

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

// insertedUpTo says that what is not in ClickHouse is not older than this; whether there is anything, the next look at
// the stream tells.
func (o *oldest) insertedUpTo(newest time.Time) {
	if o.unixMilli.Load() != 0 {
		o.accepted(newest)
	}
}

// age is 0 if there is none.
func (o *oldest) age() time.Duration {
	at := o.unixMilli.Load()
	if at == 0 {
		return 0
	}
	return max(time.Since(time.UnixMilli(at)), 0)
}

// lagCollector reckons the age of what is not in ClickHouse at the moment when somebody asks, so that it grows while
// nothing else moves. It shows the partitions that are held.
type lagCollector struct {
	desc *prometheus.Desc

	mu   sync.Mutex
	held map[int]*oldest
}

func newLagCollector() *lagCollector {
	return &lagCollector{
		desc: prometheus.NewDesc(namespace+"_"+subsystem+"_lag_seconds", "Age of the oldest message that is not in ClickHouse yet; 0 if all are.", []string{"partition"}, nil),
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
