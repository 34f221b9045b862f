package writer

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// source delivers the records of one stream in their order.
type source interface {
	// consume calls handle with each record from a sequence on, one at a time, until the answer is called.
	// handle may block. failed is called when the records have ended by themselves.
	consume(ctx context.Context, first uint64, handle handler, failed func(error)) (stop func(), err error)
}

// handler takes a record, and the span that it is traced by; that is empty for most.
type handler func(seq uint64, encoded []byte, traceparent string)

// logSource reads a message log.
type logSource struct {
	js     jetstream.JetStream
	nc     *nats.Conn // that the records come over; nil for that of js
	stream string
	traced bool // the headers' traceparent is read
	warn   func(error)
}

func (s *logSource) consume(ctx context.Context, first uint64, handle handler, failed func(error)) (func(), error) {
	feed, err := messagelog.OpenFeed(ctx, messagelog.FeedConfig{
		JetStream: s.js, Conn: s.nc, Stream: s.stream, First: first,
		Handle: func(seq uint64, m *nats.Msg) {
			var traceparent string
			if s.traced {
				traceparent = m.Header.Get(tracing.HeaderTraceparent)
			}
			handle(seq, m.Data, traceparent)
		},
		Failed: failed, Warn: s.warn,
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what was being done
	}
	return feed.Stop, nil
}
