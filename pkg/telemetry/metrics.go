package telemetry

import (
	"context"
	"log/slog"

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

// CountLines makes a logger that counts its warnings and errors in sendhouse_log_lines_total, whether a collector of
// logs is there to see them or not. Lines below the level of the log do not count. It panics
// where reg has that metric already.
func CountLines(log *slog.Logger, reg prometheus.Registerer) *slog.Logger {
	lines := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_log_lines_total", Help: "Lines of the log that an operator should see, by level.",
	}, []string{"level"})
	reg.MustRegister(lines)
	return slog.New(&countingHandler{Handler: log.Handler(), warnings: lines.WithLabelValues("warn"), errors: lines.WithLabelValues("error")})
}

type countingHandler struct {
	slog.Handler
	warnings, errors prometheus.Counter
}

// Handle implements slog.Handler.
func (h *countingHandler) Handle(ctx context.Context, r slog.Record) error {
	switch {
	case r.Level >= slog.LevelError:
		h.errors.Inc()
	case r.Level >= slog.LevelWarn:
		h.warnings.Inc()
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *countingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &countingHandler{Handler: h.Handler.WithAttrs(attrs), warnings: h.warnings, errors: h.errors}
}

// WithGroup implements slog.Handler.
func (h *countingHandler) WithGroup(name string) slog.Handler {
	return &countingHandler{Handler: h.Handler.WithGroup(name), warnings: h.warnings, errors: h.errors}
}
