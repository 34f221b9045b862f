package tracing

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	// SamplesMax is how many sampled sends of one batch are followed.
	SamplesMax = 32
	// HeaderTraceparent is W3C's header (Trace Context, 3.2).
	HeaderTraceparent = "traceparent"
)

// Sample is a sampled send in a batch: its place there and the span of its request.
type Sample struct {
	Place  uint64
	Parent trace.SpanContext
}

// Samples are the sampled sends of one batch, by place. The zero value is none.
type Samples []Sample

// Add notes that the send in a place, after those noted before, came with a request's span; a nil one is nothing to be
// noted. Of a request that sent many only the first is, and of all no more than SamplesMax.
func (s *Samples) Add(place uint64, span *Span) {
	if span == nil {
		return
	}
	s.add(place, span.span.SpanContext())
}

// AddTraceparent is Add with a traceparent; one that makes no sense is passed over.
func (s *Samples) AddTraceparent(place uint64, traceparent string) {
	if parent := parseTraceparent(traceparent); parent.IsSampled() {
		s.add(place, parent)
	}
}

func (s *Samples) add(place uint64, parent trace.SpanContext) {
	if len(*s) >= SamplesMax || slices.ContainsFunc(*s, func(other Sample) bool {
		return other.Parent.SpanID() == parent.SpanID() && other.Parent.TraceID() == parent.TraceID()
	}) {
		return
	}
	*s = append(*s, Sample{Place: place, Parent: parent})
}

// Between are those in the places from first to last.
func (s Samples) Between(first, last uint64) Samples {
	from, end := 0, len(s)
	for from < end && s[from].Place < first {
		from++
	}
	for end > from && s[end-1].Place > last {
		end--
	}
	return s[from:end]
}

// Traceparent is the header for the send in a place; empty if it is not one of them.
func (s Samples) Traceparent(place uint64) string {
	for i := range s {
		if s[i].Place == place {
			return formatTraceparent(s[i].Parent)
		}
	}
	return ""
}

// String is the header of a record of the write-ahead log or the message log: place and traceparent of each, as
// 3:00-<trace>-<span>-01,17:00-…
func (s Samples) String() string {
	var b strings.Builder
	for i := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(s[i].Place, 10))
		b.WriteByte(':')
		b.WriteString(formatTraceparent(s[i].Parent))
	}
	return b.String()
}

// ParseSamples reads what String wrote. What makes no sense in it is passed over: it is no part of the record.
func ParseSamples(header string) Samples {
	var s Samples
	for len(header) > 0 && len(s) < SamplesMax {
		var one string
		one, header, _ = strings.Cut(header, ",")
		number, traceparent, _ := strings.Cut(one, ":")
		place, err := strconv.ParseUint(number, 10, 32)
		if err != nil || len(s) > 0 && place <= s[len(s)-1].Place {
			continue
		}
		s.AddTraceparent(place, traceparent)
	}
	return s
}

func formatTraceparent(c trace.SpanContext) string {
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}

func parseTraceparent(s string) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{HeaderTraceparent: s})
	return trace.SpanContextFromContext(ctx)
}
