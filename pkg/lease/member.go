package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Keys of a role: <role>.member.<number> and <role>.partition.<number>. A member has the first number that is free
// when it joins, so that instances with ever new names do not leave ever more keys. Earlier versions had its name
// there.

func (b *Balancer) isMember(key string) bool { return strings.HasPrefix(key, b.cfg.Role+".member.") }

func (b *Balancer) partitionKey(partition int) string {
	return b.cfg.Role + ".partition." + strconv.Itoa(partition)
}

// Value is what a key holds.
type Value struct {
	Instance string `json:"instance"`
	// Since is the revision under which a member joined, or a partition's epoch. It
	// is 0 in the first value of a key, whose own revision it is.
	Since uint64 `json:"since,omitempty"`
	// TTL is for how many milliseconds an observer must have seen the value unchanged before it takes the key; 0 in
	// values of earlier versions.
	TTL int64 `json:"ttl_ms,omitempty"`
	// Status is what the holder of a partition says of it.
	Status json.RawMessage `json:"status,omitempty"`
}

// ttl is the holder's time to live, or otherwise what is given.
func (v Value) ttl(otherwise time.Duration) time.Duration {
	if v.TTL <= 0 || v.TTL > int64(TTLMax/time.Millisecond) {
		return otherwise
	}
	return time.Duration(v.TTL) * time.Millisecond
}

func (b *Balancer) encode(since uint64, status json.RawMessage) []byte {
	encoded, err := json.Marshal(Value{Instance: b.cfg.Instance, Since: since, TTL: b.cfg.TTL.Milliseconds(), Status: status})
	if err != nil {
		panic(fmt.Sprintf("lease: encode a value: %v", err)) // only a Status that is no JSON can do it
	}
	return encoded
}

func parseValue(entry jetstream.KeyValueEntry) (Value, error) {
	var v Value
	if err := json.Unmarshal(entry.Value(), &v); err != nil {
		return v, fmt.Errorf("lease %s: %w", entry.Key(), err)
	}
	if v.Since == 0 {
		v.Since = entry.Revision()
	}
	return v, nil
}

// isJoin reports whether an entry is another's first under its membership key. Those
// that follow say since when it is a member.
func (b *Balancer) isJoin(entry jetstream.KeyValueEntry) bool {
	if !b.isMember(entry.Key()) {
		return false
	}
	v, err := parseValue(entry)
	return err == nil && v.Instance != b.cfg.Instance && v.Since == entry.Revision()
}

func (b *Balancer) partitionValue(l *Lease) []byte {
	var status json.RawMessage
	if b.cfg.Status != nil {
		status = b.cfg.Status(l.Partition)
	}
	return b.encode(l.Epoch, status)
}

// renewMember renews the membership. Afterwards the instance is no member if its key is gone or another's.
func (b *Balancer) renewMember(ctx context.Context) error {
	if b.member == 0 {
		return nil
	}
	revision, err := b.kv.Update(ctx, b.memberKey, b.encode(b.joined, nil), b.member)
	ours := true
	if isConflict(err) {
		revision, ours, err = b.ownRevision(ctx, b.memberKey, b.member)
	}
	if err != nil {
		return fmt.Errorf("renew the membership: %w", err)
	}
	if !ours {
		revision = 0
	}
	b.member = revision
	return nil
}

// join takes a membership key: the one that names this instance, which an earlier run has left, the
// first that is dead, or the first number without a key.
func (b *Balancer) join(ctx context.Context, all, dead entries) error {
	key := ""
	for name, entry := range all {
		if v, err := parseValue(entry); err == nil && b.isMember(name) && v.Instance == b.cfg.Instance {
			key = name
		}
	}
	for number := 0; key == ""; number++ {
		if name := b.cfg.Role + ".member." + strconv.Itoa(number); all[name] == nil || dead[name] != nil {
			key = name
		}
	}
	revision, err := b.take(ctx, key, all[key])
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	b.memberKey, b.joined, b.member = key, revision, revision
	return nil
}

// take writes this instance's first value under a key that is not there, or that is still as it was seen.
func (b *Balancer) take(ctx context.Context, key string, seen jetstream.KeyValueEntry) (revision uint64, err error) {
	if seen == nil {
		return b.kv.Create(ctx, key, b.encode(0, nil))
	}
	return b.kv.Update(ctx, key, b.encode(0, nil), seen.Revision())
}

// removeDead removes the membership keys of instances that have died. Otherwise an instance that starts
// later would count them for a time to live.
func (b *Balancer) removeDead(ctx context.Context, dead entries) error {
	for key, entry := range dead {
		if !b.isMember(key) || key == b.memberKey {
			continue
		}
		if err := b.kv.Delete(ctx, key, jetstream.LastRevision(entry.Revision())); err != nil && !isConflict(err) {
			return fmt.Errorf("remove the dead membership %s: %w", key, err)
		}
	}
	return nil
}

// add takes in a key. A value that cannot be read, which something else has written, is no instance's membership, and keeps a
// partition taken until it counts as dead; a key that is neither a member's nor a partition's is passed over.
func (s *State) add(role string, entry jetstream.KeyValueEntry) {
	v, err := parseValue(entry)
	kind, name, _ := strings.Cut(strings.TrimPrefix(entry.Key(), role+"."), ".")
	if kind == "member" {
		if err == nil {
			s.Members = append(s.Members, v)
		}
		return
	}
	partition, notANumber := strconv.Atoi(name)
	if kind != "partition" || notANumber != nil {
		return
	}
	if err != nil {
		v = Value{Instance: unreadable, Since: entry.Revision()}
	}
	s.Owners[partition] = v
}

// unreadable stands for the owner of a partition whose key holds what is no lease.
const unreadable = "(unreadable)"
