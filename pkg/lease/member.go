package lease

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Keys of a role: <role>.member.<instance> and <role>.partition.<number>.

func (b *Balancer) memberKey() string { return b.cfg.Role + ".member." + b.cfg.Instance }

func (b *Balancer) partitionKey(partition int) string {
	return b.cfg.Role + ".partition." + strconv.Itoa(partition)
}

// Value is what a key holds.
type Value struct {
	Instance string `json:"instance"`
	// Since is the revision under which a member joined, or a partition's epoch. It
	// is 0 in the first value of a key, whose own revision it is.
	Since uint64 `json:"since,omitempty"`
	// Status is what the holder of a partition says of it.
	Status json.RawMessage `json:"status,omitempty"`
}

func (v Value) encode() []byte {
	encoded, err := json.Marshal(v)
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

// isJoin says whether an entry is another's first under its membership key. Those
// that follow say since when it is a member.
func (b *Balancer) isJoin(entry jetstream.KeyValueEntry) bool {
	if !strings.HasPrefix(entry.Key(), b.cfg.Role+".member.") || entry.Key() == b.memberKey() {
		return false
	}
	v, err := parseValue(entry)
	return err == nil && v.Since == entry.Revision()
}

func (b *Balancer) partitionValue(l *Lease) []byte {
	v := Value{Instance: b.cfg.Instance, Since: l.Epoch}
	if b.cfg.Status != nil && l.Epoch != 0 {
		v.Status = b.cfg.Status(l.Partition)
	}
	return v.encode()
}

// renewMember says that the instance is there, and joins where it is not known.
func (b *Balancer) renewMember(ctx context.Context) error {
	if b.member != 0 {
		revision, err := b.kv.Update(ctx, b.memberKey(), Value{Instance: b.cfg.Instance, Since: b.joined}.encode(), b.member)
		ours := true
		if isConflict(err) {
			revision, ours, err = b.ownRevision(ctx, b.memberKey(), b.member)
		}
		if err != nil {
			return fmt.Errorf("renew the membership: %w", err)
		}
		if ours {
			b.member = revision
			return nil
		}
	}
	revision, err := b.kv.Create(ctx, b.memberKey(), Value{Instance: b.cfg.Instance}.encode())
	if errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("join: another instance is named %q, or one was until a moment ago: %w", b.cfg.Instance, err)
	}
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	b.joined, b.member = revision, revision
	return nil
}

// reclaim deletes what an earlier run under this instance's name left behind.
func (b *Balancer) reclaim(ctx context.Context) error {
	state, err := List(ctx, b.kv, b.cfg.Role)
	if err != nil {
		return err
	}
	keys := []string{b.memberKey()}
	for partition, owner := range state.Owners {
		if owner.Instance == b.cfg.Instance {
			keys = append(keys, b.partitionKey(partition))
		}
	}
	for _, key := range keys {
		if err := b.kv.Delete(ctx, key); err != nil {
			return fmt.Errorf("reclaim lease %s: %w", key, err)
		}
	}
	return nil
}

// State is what a role's keys say.
type State struct {
	Members []Value       // by when they joined
	Owners  map[int]Value // by partition; Since is the epoch
}

// quota is the share of the member that joined at the given revision. Shares
// differ by one at most, and earlier members have the larger ones, so that a
// newcomer moves as little as may be.
func (s State) quota(joined uint64, partitions int) int {
	rank, found := slices.BinarySearchFunc(s.Members, joined, func(v Value, joined uint64) int { return cmp.Compare(v.Since, joined) })
	if !found {
		return 0
	}
	share := partitions / len(s.Members)
	if rank < partitions%len(s.Members) {
		share++
	}
	return share
}

// List reads a role's keys. It reads them twice: one that is renewed just then may be left out, since its old record has gone and its new
// one comes behind what the server counts as all. What has ended in between is still named; an
// instance that takes part sees it in its next round.
func List(ctx context.Context, kv jetstream.KeyValue, role string) (State, error) {
	found := make(map[string]jetstream.KeyValueEntry)
	for range 2 {
		if err := read(ctx, kv, role, found); err != nil {
			return State{}, fmt.Errorf("read the leases: %w", err)
		}
	}
	state := State{Owners: make(map[int]Value)}
	for _, entry := range found {
		state.add(role, entry)
	}
	slices.SortFunc(state.Members, func(a, b Value) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Instance, b.Instance))
	})
	return state, nil
}

// read puts a role's keys into found, the newer of two of the same name.
func read(ctx context.Context, kv jetstream.KeyValue, role string, found map[string]jetstream.KeyValueEntry) error {
	watcher, err := kv.Watch(ctx, role+".>", jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Stop() }() // read to its end; the connection may be gone
	for {
		select {
		case entry, ok := <-watcher.Updates():
			if !ok {
				return errors.New("the connection is closed")
			}
			if entry == nil { // that was all
				return nil
			}
			if before := found[entry.Key()]; before == nil || before.Revision() < entry.Revision() {
				found[entry.Key()] = entry
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add takes in a key. A value that cannot be read, which something else has written, is nobody's membership, and keeps a
// partition taken until it expires; a key that is neither a member's nor a partition's is passed over.
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
