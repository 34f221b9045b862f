package tracing

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// warnInterval is how often the log says that the collector takes nothing.
const warnInterval = time.Minute

// exporter counts what becomes of spans and keeps failures from OpenTelemetry's error handler, which is global and
// would log each of them. One goroutine of the batcher calls it at a time.
type exporter struct {
	sdk.SpanExporter
	log              *slog.Logger
	exported, failed prometheus.Counter
	warned           time.Time // zero while all is well
}

// ExportSpans never fails: nobody could do more about it than is done here.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		e.failed.Add(float64(len(spans)))
		if e.warned.IsZero() || time.Since(e.warned) >= warnInterval {
			e.warned = time.Now()
			e.log.Warn("the trace collector does not take spans; they are dropped", "spans", len(spans), "error", err)
		}
		return nil
	}
	e.exported.Add(float64(len(spans)))
	if !e.warned.IsZero() {
		e.warned = time.Time{}
		e.log.Info("the trace collector takes spans again")
	}
	return nil
}
