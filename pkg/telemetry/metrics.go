package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes the registry of a process: it has the metrics of the Go runtime and of the
// process, and sendhouse_build_info, which is always 1 and carries the build as labels.
func NewRegistry(build Build) *prometheus.Registry {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sendhouse_build_info",
		Help: "Always 1; the labels say which program this is.",
		ConstLabels: prometheus.Labels{
			"version":    build.Version,
			"revision":   build.Revision,
			"go_version": build.GoVersion,
		},
	})
	info.Set(1)

	registry := prometheus.NewRegistry()
	// MustRegister fails on duplicates only, and the registry is new.
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return registry
}
