package writer

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// source delivers the messages of one message log in their order.
type source interface {
	// consume calls handle for each message from the record with stream_seq record on, one at a time, until stop is
	// called. handle may block. consume calls failed if the delivery ends by itself.
	consume(ctx context.Context, record uint64, handle handler, failed func(error)) (stop func(), err error)
}

// handler receives a message and the span that traces it, which is empty for most messages.
type handler func(seq uint64, encoded []byte, traceparent string)

// logSource reads a message log.
type logSource struct {
	js     jetstream.JetStream
	stream string
	traced bool // read the trace headers
	warn   func(error)
}

func (s *logSource) consume(ctx context.Context, record uint64, handle handler, failed func(error)) (func(), error) {
	var view message.BatchView // reused: the subscription makes one call at a time
	feed, err := messagelog.OpenFeed(ctx, messagelog.FeedConfig{
		JetStream: s.js, Stream: s.stream, First: record,
		Handle: func(seq uint64, m *nats.Msg) {
			if err := message.ViewBatch(m.Data, &view); err != nil {
				failed(fmt.Errorf("record %d of %s: %w", seq, s.stream, err))
				return
			}
			var traced tracing.Samples
			if s.traced {
				traced = tracing.ParseSamples(m.Header.Get(topology.HeaderTrace))
			}
			for i, encoded := range view.Messages {
				handle(view.First+uint64(i), encoded, traced.Traceparent(uint64(i)))
			}
		},
		Failed: failed, Warn: s.warn,
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what was being done
	}
	return feed.Stop, nil
}
