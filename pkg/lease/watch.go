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
	// Behind: the holder has not folded what was in the log when it took the partition, or has
	// said nothing of it yet.
	Behind bool `json:"behind,omitempty"`
	// RemembersMS is for how many milliseconds a send is surely known by its client_msg_no; 0: not known.
	RemembersMS int64 `json:"remembers_ms,omitempty"`
}

// Owner is what the lease of a partition says of its holder.
type Owner struct {
	Condition
	Instance string        // "" if the lease was given back
	TTL      time.Duration // that the holder has, within which it renews several times
}

// Watch calls see with what the lease of each of a role's partitions says, beginning with those that are
// known, and again with each renewal, until ctx ends or the watch breaks, and returns the reason. A lease that ends without a word
// is not reported: its renewals stop. A value that cannot be read counts as that of a holder with the zero Condition.
func Watch(ctx context.Context, kv jetstream.KeyValue, role string, see func(partition int, o Owner)) error {
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
			see(partition, ownerOf(entry))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ttlUsual is for values of earlier versions, which do not say their time to live.
const ttlUsual = 6 * time.Second

func ownerOf(entry jetstream.KeyValueEntry) Owner {
	if entry.Operation() != jetstream.KeyValuePut {
		return Owner{}
	}
	v, err := parseValue(entry)
	if err != nil {
		return Owner{Instance: unreadable, TTL: ttlUsual}
	}
	o := Owner{Instance: v.Instance, TTL: v.ttl(ttlUsual)}
	switch {
	case len(v.Status) == 0: // it has taken the partition a moment ago, and not said anything of it yet
		o.Behind = true
	case json.Unmarshal(v.Status, &o.Condition) != nil:
		o.Condition = Condition{}
	}
	return o
}
