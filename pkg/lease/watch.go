package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// RoleSequencer is the name of the sequencers' role in their lease bucket.
const RoleSequencer = "sequencer"

// Condition is the part of a holder's status that other roles and operators read.
type Condition struct {
	// Refused: the holder keeps the partition and does not serve it, because what it
	// is made from is damaged or incomplete.
	Refused bool `json:"refused,omitempty"`
	// Problem is why the partition is not served, or was not at the last attempt.
	Problem string `json:"problem,omitempty"`
}

// Watch calls see with each change of the condition in which the holders of a role's
// partitions have them, beginning with those that are known, until ctx ends or the
// watch breaks, and returns the reason. A partition that was given back has the zero
// Condition. A lease that ends without a word is not reported: what was seen counts for the
// holder's time to live. A value that cannot be read counts as the zero Condition.
func Watch(ctx context.Context, kv jetstream.KeyValue, role string, see func(partition int, c Condition, ttl time.Duration)) error {
	prefix := role + ".partition."
	watcher, err := kv.Watch(ctx, prefix+"*")
	if err != nil {
		return fmt.Errorf("watch the leases of role %s: %w", role, err)
	}
	defer func() { _ = watcher.Stop() }() // the connection may be gone, and the watch with it
	for {
		select {
		case entry, open := <-watcher.Updates():
			if !open {
				return errors.New("the watch on the leases ended")
			}
			if entry == nil {
				continue // all that was there at the start has come
			}
			partition, err := strconv.Atoi(strings.TrimPrefix(entry.Key(), prefix))
			if err != nil {
				continue // not a partition's key
			}
			c, ttl := conditionOf(entry)
			see(partition, c, ttl)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// conditionTTL is for values of earlier versions, which do not say their time to live.
const conditionTTL = 6 * time.Second

func conditionOf(entry jetstream.KeyValueEntry) (c Condition, ttl time.Duration) {
	if entry.Operation() != jetstream.KeyValuePut {
		return Condition{}, 0
	}
	v, err := parseValue(entry)
	if err != nil || len(v.Status) == 0 || json.Unmarshal(v.Status, &c) != nil {
		return Condition{}, 0
	}
	return c, v.ttl(conditionTTL)
}
