package broker

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// readAheadRecords is how many records are asked for at a time, and thus wait in memory at the most; some 35 MB if each is as large as a
// group commit may be. Bytes are no limit here: nats-server 2.15 ends a request whose records take exactly its bytes without
// a word, and the client then waits for ten seconds for what will not come.
const readAheadRecords = 64

// OrderedReader reads the records of a stream in their order.
type OrderedReader struct {
	jetstream.MessagesContext

	js       jetstream.JetStream
	stream   string
	consumer jetstream.Consumer
}

// ReadOrdered reads a stream from a sequence on, which is at least 1. Stop it in the end. A consumer that is lost is replaced once; if that
// fails, Next fails: the client would try for ever otherwise, and not see that Next's context ends.
func ReadOrdered(ctx context.Context, js jetstream.JetStream, stream string, first uint64) (*OrderedReader, error) {
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy:    jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:      first,
		MaxResetAttempts: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("make a consumer of %s: %w", stream, err)
	}
	r := &OrderedReader{js: js, stream: stream, consumer: consumer}
	if r.MessagesContext, err = consumer.Messages(jetstream.PullMaxMessages(readAheadRecords)); err != nil {
		r.drop()
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	return r, nil
}

// Stop ends the reading; Next must not be in a call. The client's own Stop leaves the consumer to the server, which forgets one after five
// minutes without requests and has no more than 1,000 of a stream (nats-server's max_consumers), so many short readings would use them up.
func (r *OrderedReader) Stop() {
	r.MessagesContext.Stop()
	r.drop()
}

// drop tells the server to forget the consumer. It does not wait for the answer of a server that may be away; and if
// this does not reach the server, those five minutes are what is left.
func (r *OrderedReader) drop() {
	if info := r.consumer.CachedInfo(); info != nil {
		_ = r.js.Conn().Publish(apiPrefix(r.js.Options())+"CONSUMER.DELETE."+r.stream+"."+info.Name, nil)
	}
}
