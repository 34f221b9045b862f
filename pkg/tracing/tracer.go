package tracing

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Tracer begins the spans of one role. A nil one begins none, and costs a comparison.
type Tracer struct{ tracer trace.Tracer }

// Span is a piece of work that is traced. A nil one is none. End it.
type Span struct{ span trace.Span }

// spanKey is the key of a request's span in its context.
type spanKey struct{}

// Request begins the span of a request, as the child of what its header traceparent names. If it is not sampled the
// span is nil and the request is the one that was given; otherwise its context holds the span.
func (t *Tracer) Request(r *http.Request, route string, start time.Time) (*http.Request, *Span) {
	if t == nil {
		return r, nil
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	_, begun := t.tracer.Start(ctx, r.Method+" "+route, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(start),
		trace.WithAttributes(attribute.String("http.request.method", r.Method), attribute.String("http.route", route)))
	if !begun.SpanContext().IsSampled() {
		return r, nil
	}
	s := &Span{span: begun}
	return r.WithContext(context.WithValue(r.Context(), spanKey{}, s)), s
}

// Of is the span of the request whose context this is.
func (t *Tracer) Of(ctx context.Context) *Span {
	if t == nil {
		return nil
	}
	s, _ := ctx.Value(spanKey{}).(*Span)
	return s
}

// Batch begins the span of work on a batch. There is none if no send of it is sampled.
func (t *Tracer) Batch(name string, start time.Time, samples Samples) *Span {
	if t == nil || len(samples) == 0 {
		return nil
	}
	links := make([]trace.Link, len(samples))
	for i, s := range samples {
		links[i].SpanContext = s.Parent
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), samples[0].Parent)
	_, begun := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindInternal), trace.WithTimestamp(start), trace.WithLinks(links...))
	return &Span{span: begun}
}

// Int notes a number.
func (s *Span) Int(key string, value int64) {
	if s != nil {
		s.span.SetAttributes(attribute.Int64(key, value))
	}
}

// Text notes a text.
func (s *Span) Text(key, value string) {
	if s != nil {
		s.span.SetAttributes(attribute.String(key, value))
	}
}

// Fail notes that the work failed, and why.
func (s *Span) Fail(reason string) {
	if s != nil {
		s.span.SetStatus(codes.Error, reason)
	}
}

// TraceID is the name of the trace, in hex.
func (s *Span) TraceID() string {
	if s == nil {
		return ""
	}
	return s.span.SpanContext().TraceID().String()
}

// End ends the span. A second time does nothing.
func (s *Span) End() {
	if s != nil {
		s.span.End()
	}
}
