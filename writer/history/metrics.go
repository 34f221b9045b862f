package history

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics holds the metrics of the service.
type metrics struct {
	requests        *prometheus.CounterVec // by route and code
	requestDuration *prometheus.HistogramVec
	states          *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, running func() float64) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sendhouse_history_requests_total", Help: "Client reads, by route and result: ok, or the code of the error.",
		}, []string{"route", "code"}),
		requestDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sendhouse_history_request_duration_seconds", Help: "Duration of client reads, by route.",
			Buckets:                         []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"route"}),
		states: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sendhouse_history_statuses_total", Help: "Responses of /message/status, by state.",
		}, []string{"state"}),
	}
	for _, route := range NotServed() { // the same that are served
		m.requests.WithLabelValues(route.Path, "ok")
		m.requestDuration.WithLabelValues(route.Path)
	}
	for _, state := range []string{stateStored, stateAccepted, stateUnknown} {
		m.states.WithLabelValues(state)
	}
	return m, errors.Join(reg.Register(m.requests), reg.Register(m.requestDuration), reg.Register(m.states),
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sendhouse_history_running_reads", Help: "Client reads in progress.",
		}, running)))
}
