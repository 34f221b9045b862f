package permission

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	decisions   [Verdicts]prometheus.Counter
	changes     *prometheus.CounterVec
	duration    prometheus.Histogram
	conflicts   prometheus.Counter
	watches     prometheus.Counter
	unconfirmed prometheus.Counter
	damaged     prometheus.Counter
}

// newMetrics registers the metrics, and reports every one that fails to register.
func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	const prefix = "sendhouse_ingest_permission_"
	var errs []error
	register := func(c prometheus.Collector) {
		if err := reg.Register(c); err != nil {
			errs = append(errs, err)
		}
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
		register(c)
		return c
	}
	gauge := func(name, help string, value func() float64) {
		register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, value))
	}
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "decisions_total", Help: "Sends decided on, by verdict.",
	}, []string{"decision"})
	register(decisions)
	m := &metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "changes_total", Help: "Changes of permissions requested from this process, by result.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "change_duration_seconds", Help: "From the request for a change until it is in force in this process.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		conflicts:   counter("conflicts_total", "Attempts at a change that lost against another instance and were retried."),
		watches:     counter("watch_restarts_total", "Watches on the bucket that ended or stalled and were restarted."),
		unconfirmed: counter("unconfirmed_total", "Times that NATS did not confirm in time that the cache is complete."),
		damaged:     counter("damaged_total", "Records of the bucket that could not be read."),
	}
	register(m.changes)
	register(m.duration)
	for v := range Verdicts {
		m.decisions[v] = decisions.WithLabelValues(v.String())
	}
	for _, result := range []string{"done", "refused", "unchanged", "unknown"} {
		m.changes.WithLabelValues(result)
	}
	gauge("channels", "Channels in the cache.", func() float64 { return float64(s.cache.Load().channels.Load()) })
	gauge("uids", "Entries of all lists in the cache.", func() float64 { return float64(s.cache.Load().members.Load()) })
	gauge("cache_bytes", "Approximate memory of the cache.", func() float64 { return float64(s.cache.Load().bytes.Load()) })
	gauge("loose_pages", "Pages in the bucket that no channel's record points to; swept after some minutes.", func() float64 { return float64(s.loose.count()) })
	gauge("cache_age_seconds", "Time since the cache was last known to be complete; below 1 while NATS answers.", func() float64 { return s.age().Seconds() })
	gauge("stale_max_seconds", "Limit of sendhouse_ingest_permission_cache_age_seconds; above it sends are not decided on.", func() float64 { return s.staleMax.Seconds() })
	gauge("usable", "1 while sends can be decided on, else 0.", func() float64 {
		if s.Check() != nil {
			return 0
		}
		return 1
	})
	return m, errors.Join(errs...)
}

func (m *metrics) changed(err error, took time.Duration) {
	result := "done"
	switch {
	case err == nil:
		m.duration.Observe(took.Seconds())
	case errors.Is(err, ErrUnchanged):
		result = "unchanged"
	case errors.Is(err, ErrUnknown):
		result = "unknown"
	default:
		result = "refused"
	}
	m.changes.WithLabelValues(result).Inc()
}
