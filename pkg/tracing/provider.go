package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// Limits of what waits for the collector. If it is away or slow, spans are dropped beyond them; nothing waits for it.
const (
	queueSpansMax  = 4096
	exportSpansMax = 512
	exportInterval = time.Second
	exportTimeout  = 10 * time.Second // of one request, and of all tries of it
	shutdownMax    = 5 * time.Second  // for what has not been sent when the process stops
)

// Provider makes the tracers of one process and sends their spans. A nil one makes none.
type Provider struct {
	sdk *sdk.TracerProvider
}

// Deps are what a provider works with. All fields must be set.
type Deps struct {
	// Service is the name of the process among the traced ones; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES change it.
	Service, Version string
	Logger           *slog.Logger
	Registerer       prometheus.Registerer
}

// New checks the settings and prepares what they ask for; nil if that is nothing. The collector need not be there. Its
// metrics exist in any case. Headers, certificates and compression come from OpenTelemetry's own variables
// (OTEL_EXPORTER_OTLP_HEADERS and so on).
func New(ctx context.Context, cfg Config, deps Deps) (*Provider, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sendhouse_tracing_spans_total", Help: "Spans, by what became of them: exported or failed.",
	}, []string{"outcome"})
	out := &exporter{log: deps.Logger, exported: spans.WithLabelValues("exported"), failed: spans.WithLabelValues("failed")}
	if err := deps.Registerer.Register(spans); err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	if cfg.OTLPEndpoint == "" {
		return nil, nil //nolint:nilnil // a nil Provider is one that is switched off
	}
	endpoint, err := cfg.endpoint()
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	out.SpanExporter, err = otlptrace.New(ctx, otlptracehttp.NewClient(
		otlptracehttp.WithEndpointURL(endpoint),
		otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout}),
	))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	what, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", deps.Service), attribute.String("service.version", deps.Version)),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("tracing: describe the process: %w", errors.Join(err, out.Shutdown(ctx)))
	}
	return &Provider{sdk: sdk.NewTracerProvider(
		sdk.WithResource(what),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(cfg.TraceRatio))),
		sdk.WithRawSpanLimits(spanLimits()),
		sdk.WithBatcher(out,
			sdk.WithMaxQueueSize(queueSpansMax), sdk.WithMaxExportBatchSize(exportSpansMax),
			sdk.WithBatchTimeout(exportInterval), sdk.WithExportTimeout(exportTimeout)),
	)}, nil
}

// spanLimits bounds a span, whatever the environment says.
func spanLimits() sdk.SpanLimits {
	return sdk.SpanLimits{
		AttributeValueLengthLimit: 256, AttributeCountLimit: 32, EventCountLimit: 32, LinkCountLimit: SamplesMax,
		AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 4,
	}
}

// Tracer is that of a role; the name becomes the instrumentation scope.
func (p *Provider) Tracer(role string) *Tracer {
	if p == nil {
		return nil
	}
	return &Tracer{tracer: p.sdk.Tracer("github.com/sendhouse/sendhouse/" + role)}
}

// Close sends what has not been sent, for a few seconds at most, and stops. What the collector has not taken by then is
// lost, which is no error of the process.
func (p *Provider) Close() error { return p.close(shutdownMax) }

func (p *Provider) close(most time.Duration) error {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	if err := p.sdk.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("tracing: %w", err)
	}
	return nil
}

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

// ExportSpans never fails: no caller could do more about it than is done here.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		e.failed.Add(float64(len(spans)))
		if e.warned.IsZero() || time.Since(e.warned) >= warnInterval {
			e.warned = time.Now()
			e.log.Warn("cannot export spans to the trace collector; dropping them", "spans", len(spans), "error", err)
		}
		return nil
	}
	e.exported.Add(float64(len(spans)))
	if !e.warned.IsZero() {
		e.warned = time.Time{}
		e.log.Info("exporting spans to the trace collector again")
	}
	return nil
}
