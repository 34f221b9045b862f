// Package tracing follows single sends through the pipeline with OpenTelemetry, if it is switched on.
//
// A request that is sampled has a span. What becomes of its send is work on batches: a group commit, the fold of a
// record, an insert. Each of these has a span only if the batch holds a sampled send. It links to the request's
// span of each of them, up to [SamplesMax], and is a child of the first, so that the trace of a request shows the whole way
// where it was the only one, or the first.
//
// The way of the trace context is beside the records and never in them: a header of the record of the write-ahead log,
// and a header traceparent of those messages of the message log that were sampled. Bytes of records are the same with
// tracing and without.
//
// Everything here may be nil, and is then switched off: a nil [Provider] returns a nil [Tracer], which returns nil spans, and
// their methods do nothing.
package tracing
