package writer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
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
	consume(ctx context.Context, first uint64, handle func(seq uint64, encoded []byte), failed func(error)) (stop func(), err error)
}

// orderedSource reads a stream with an ordered consumer: the client makes it anew by itself after a
// disconnect, from the record after the last one delivered.
type orderedSource struct {
	js     jetstream.JetStream
	stream string
	warn   func(error)
}

func (s *orderedSource) consume(ctx context.Context, first uint64, handle func(seq uint64, encoded []byte), failed func(error)) (func(), error) {
	consumer, err := s.js.OrderedConsumer(ctx, s.stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   first,
	})
	if err != nil {
		return nil, fmt.Errorf("read %s from %d: %w", s.stream, first, err)
	}
	bytesMax := int(s.js.Conn().MaxPayload()) + prefetchSlackBytes
	consuming, err := consumer.Consume(
		func(msg jetstream.Msg) {
			seq, err := streamSeqOf(msg.Reply())
			if err != nil {
				failed(err)
				return
			}
			handle(seq, msg.Data())
		},
		jetstream.PullMaxMessagesWithBytesLimit(prefetchRecords, bytesMax),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			if errors.Is(err, jetstream.ErrConnectionClosed) {
				failed(fmt.Errorf("read %s: %w", s.stream, err))
				return
			}
			s.warn(err) // the consumer deals with it
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("read %s from %d: %w", s.stream, first, err)
	}
	return consuming.Stop, nil
}

// streamSeqOf reads the stream sequence out of a reply subject, without the allocations of Metadata:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<delivered>.<stream seq>.…
func streamSeqOf(reply string) (uint64, error) {
	index := 5
	if strings.Count(reply, ".") >= 10 {
		index = 7
	}
	rest := reply
	for range index {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return 0, fmt.Errorf("reply subject %q is not that of a stream", reply)
		}
		rest = after
	}
	text, _, _ := strings.Cut(rest, ".")
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil || !strings.HasPrefix(reply, "$JS.ACK.") {
		return 0, fmt.Errorf("reply subject %q is not that of a stream", reply)
	}
	return seq, nil
}
