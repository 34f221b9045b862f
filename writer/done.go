package writer

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const doneTimeout = 5 * time.Second

// Done is the recorded position of a partition: the last place up to which every message is in
// ClickHouse, or is a dead letter, or is named as lost. 0 means none.
func Done(ctx context.Context, js jetstream.JetStream, partition int) (uint64, error) {
	kv, err := openBucket(ctx, js)
	if err != nil {
		return 0, err
	}
	p, err := (&positions{kv: kv, key: positionKey(partition), timeout: doneTimeout}).load(ctx)
	return p.Done, err
}
