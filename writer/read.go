package writer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/tracing"
)

const (
	// prefetchRecords and the largest message the server takes bound what the client holds of a partition
	// before the gatherer has it.
	prefetchRecords = 4096
	// prefetchSlackBytes is what a record takes on the wire besides its payload: subject, reply, headers.
	prefetchSlackBytes = 64 << 10
)

// source delivers the records of one stream in their order.
type source interface {
	// consume calls handle with each record from a sequence on, one at a time, until the answer is called.
	// handle may block. failed is called when the records have ended by themselves.
	consume(ctx context.Context, first uint64, handle handler, failed func(error)) (stop func(), err error)
}

// handler takes a record, and the span that it is traced by; that is empty for most.
type handler func(seq uint64, encoded []byte, traceparent string)

// orderedSource reads a stream with an ordered consumer.
//
// The client makes such a consumer anew by itself when something is wrong with it. Here that ends the
// reading instead: behind a new consumer can stand a stream that has lost its tail, or was made anew, and
// whoever reads must look at that first.
type orderedSource struct {
	js     jetstream.JetStream
	stream string
	traced bool // the headers' traceparent is read
	warn   func(error)
}

var errConsumerReplaced = errors.New("the consumer was made anew")

func (s *orderedSource) consume(ctx context.Context, first uint64, handle handler, failed func(error)) (func(), error) {
	consumer, err := s.js.OrderedConsumer(ctx, s.stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   first,
	})
	if err != nil {
		return nil, fmt.Errorf("read %s from %d: %w", s.stream, first, err)
	}
	name := consumer.CachedInfo().Name
	bytesMax := int(s.js.Conn().MaxPayload()) + prefetchSlackBytes
	consuming, err := consumer.Consume(
		func(msg jetstream.Msg) {
			from, seq, err := parseReply(msg.Reply())
			switch {
			case err != nil:
				failed(err)
			case from != name:
				failed(fmt.Errorf("read %s: %w", s.stream, errConsumerReplaced))
			default:
				var traceparent string
				if s.traced {
					traceparent = msg.Headers().Get(tracing.HeaderTraceparent)
				}
				handle(seq, msg.Data(), traceparent)
			}
		},
		jetstream.PullMaxMessagesWithBytesLimit(prefetchRecords, bytesMax),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			if errors.Is(err, jetstream.ErrConnectionClosed) {
				failed(fmt.Errorf("read %s: %w", s.stream, err))
				return
			}
			s.warn(err) // the client deals with it, or makes the consumer anew
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("read %s from %d: %w", s.stream, first, err)
	}
	return consuming.Stop, nil
}

// parseReply reads the consumer and the stream sequence out of a reply subject, without the allocations of
// Metadata:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<delivered>.<stream seq>.…
func parseReply(reply string) (consumer string, seq uint64, err error) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	before := 1 // tokens before the consumer
	if strings.Count(rest, ".") >= 8 {
		before = 3
	}
	for range before {
		_, rest, _ = strings.Cut(rest, ".")
	}
	consumer, rest, _ = strings.Cut(rest, ".")
	_, rest, _ = strings.Cut(rest, ".")
	text, _, _ := strings.Cut(rest, ".")
	seq, err = strconv.ParseUint(text, 10, 64)
	if err != nil || !ok {
		return "", 0, fmt.Errorf("reply subject %q is not that of a stream", reply)
	}
	return consumer, seq, nil
}
