package sequencer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// natsCheckpoints keeps two checkpoints of a partition as objects, and a pointer
// that says which they are. The pointer moves, by compare-and-swap, only
// when the object is whole; so a checkpoint that was cut short by a crash is
// never taken for one: what the pointer says of the object then does not match.
type natsCheckpoints struct {
	js        jetstream.JetStream
	stream    jetstream.Stream // of the object store
	pointers  jetstream.KeyValue
	partition int
}

// pointer is the value in the key-value bucket.
type pointer struct {
	Checkpoints []runner.CheckpointMeta `json:"checkpoints"` // newest first, at most two
}

func openCheckpoints(ctx context.Context, js jetstream.JetStream, partition int) (*natsCheckpoints, error) {
	stream, err := js.Stream(ctx, objectStream)
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", topology.CheckpointBucket, err)
	}
	pointers, err := js.KeyValue(ctx, topology.CheckpointPointerBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.CheckpointPointerBucket, err)
	}
	return &natsCheckpoints{js: js, stream: stream, pointers: pointers, partition: partition}, nil
}

func (c *natsCheckpoints) key() string { return "p" + strconv.Itoa(c.partition) }

func (c *natsCheckpoints) List(ctx context.Context) (runner.Kept, error) {
	p, revision, err := c.pointer(ctx)
	return runner.Kept{Metas: p.Checkpoints, Version: revision}, err
}

func (c *natsCheckpoints) Claim(ctx context.Context) (runner.Kept, error) {
	kept, err := c.List(ctx)
	if err != nil {
		return runner.Kept{}, err
	}
	if kept.Version, err = c.move(ctx, kept.Version, kept.Metas); err != nil {
		return runner.Kept{}, err
	}
	kept.Claim = kept.Version
	return kept, nil
}

// move moves the pointer, if it is still where it was seen.
func (c *natsCheckpoints) move(ctx context.Context, from uint64, to []runner.CheckpointMeta) (uint64, error) {
	value, err := json.Marshal(pointer{Checkpoints: to})
	if err != nil {
		return 0, fmt.Errorf("encode the checkpoint pointer: %w", err)
	}
	revision, err := c.pointers.Update(ctx, c.key(), value, from)
	if err != nil {
		return 0, fmt.Errorf("move the checkpoint pointer: %w", err)
	}
	return revision, nil
}

func (c *natsCheckpoints) pointer(ctx context.Context) (pointer, uint64, error) {
	entry, err := c.pointers.Get(ctx, c.key())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return pointer{}, 0, nil
	}
	if err != nil {
		return pointer{}, 0, fmt.Errorf("read the checkpoint pointer: %w", err)
	}
	var p pointer
	if err := json.Unmarshal(entry.Value(), &p); err != nil {
		return pointer{}, 0, fmt.Errorf("checkpoint pointer %s: %w", c.key(), err)
	}
	return p, entry.Revision(), nil
}

func (c *natsCheckpoints) Save(ctx context.Context, snapshot *fold.Snapshot, takenAt time.Time, seen runner.Kept, beside *runner.CheckpointMeta) (runner.Kept, error) {
	err := c.sweep(ctx, seen) // first, for what is left over may be why there is no space
	if err != nil {
		return runner.Kept{}, err
	}
	meta := runner.CheckpointMeta{Object: c.freeObject(seen), WALSeq: snapshot.WALSeq(), Output: snapshot.Output(), TakenAt: takenAt}
	if meta.Bytes, meta.CRC32C, err = c.put(ctx, meta.Object, snapshot); err != nil {
		return runner.Kept{}, fmt.Errorf("store checkpoint %s: %w", meta.Object, err)
	}
	kept := runner.Kept{Metas: []runner.CheckpointMeta{meta}, Claim: seen.Claim}
	if beside != nil {
		kept.Metas = append(kept.Metas, *beside)
	}
	if kept.Version, err = c.move(ctx, seen.Version, kept.Metas); err != nil {
		return runner.Kept{}, err
	}
	return kept, nil
}

// freeObject is the name of an object that the pointer does not name. The claim is
// part of it, so an owner that was paused writes over nothing of its successor's.
func (c *natsCheckpoints) freeObject(seen runner.Kept) string {
	for _, turn := range []string{"a", "b"} {
		if name := fmt.Sprintf("%s.%d.%s", c.key(), seen.Claim, turn); !names(seen.Metas, name) {
			return name
		}
	}
	return fmt.Sprintf("%s.%d.c", c.key(), seen.Claim)
}

func names(metas []runner.CheckpointMeta, object string) bool {
	return slices.ContainsFunc(metas, func(m runner.CheckpointMeta) bool { return m.Object == object })
}

// sweep deletes what the pointer, as this owner has last seen it, does not name of
// the partition's objects, with the chunks that were left where storing one was cut
// short. It never will name them again: a later owner begins with what the pointer
// named then and adds objects of its own claim, which are left alone.
func (c *natsCheckpoints) sweep(ctx context.Context, seen runner.Kept) error {
	stored, err := objectSubjects(ctx, c.stream)
	if err != nil {
		return fmt.Errorf("list the checkpoints: %w", err)
	}
	for subject, object := range stored {
		if claim, ours := c.claimOf(object); !ours || claim > seen.Claim || names(seen.Metas, object) {
			continue
		}
		if err := c.purgeObject(ctx, subject); err != nil {
			return fmt.Errorf("delete checkpoint %s, which is not kept: %w", object, err)
		}
	}
	return nil
}

// claimOf reads the claim from the name of an object of this partition.
func (c *natsCheckpoints) claimOf(object string) (claim uint64, ours bool) {
	rest, ours := strings.CutPrefix(object, c.key()+".")
	number, _, _ := strings.Cut(rest, ".")
	claim, err := strconv.ParseUint(number, 10, 64)
	return claim, ours && err == nil
}

// put streams the snapshot into the object store.
func (c *natsCheckpoints) put(ctx context.Context, name string, snapshot *fold.Snapshot) (int64, uint32, error) {
	object, err := newObjectWriter(ctx, c.js.Conn(), name)
	if err != nil {
		return 0, 0, err
	}
	defer object.close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	bytes, err := snapshot.WriteTo(io.MultiWriter(object, sum))
	if err == nil {
		err = object.finish()
	}
	return bytes, sum.Sum32(), err
}

func (c *natsCheckpoints) Load(ctx context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
	object, err := c.open(ctx, meta.Object)
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound):
		return nil, fmt.Errorf("%w: object %s is gone", runner.ErrDamaged, meta.Object)
	case errors.Is(err, jetstream.ErrBadObjectMeta):
		return nil, fmt.Errorf("%w: object %s: %w", runner.ErrDamaged, meta.Object, err)
	case err != nil:
		return nil, fmt.Errorf("open checkpoint %s: %w", meta.Object, err)
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	state, err := fold.Read(io.TeeReader(object, sum), params)
	switch {
	case errors.Is(err, fold.ErrSnapshot):
		return nil, fmt.Errorf("%w: object %s: %w", runner.ErrDamaged, meta.Object, err)
	case err != nil:
		return nil, fmt.Errorf("read checkpoint %s: %w", meta.Object, err)
	case sum.Sum32() != meta.CRC32C:
		return nil, fmt.Errorf("%w: object %s has checksum %08x, wanted %08x", runner.ErrDamaged, meta.Object, sum.Sum32(), meta.CRC32C)
	case state.WALSeq() != meta.WALSeq || state.Output() != meta.Output:
		return nil, fmt.Errorf("%w: object %s is of record %d, the pointer says %d", runner.ErrDamaged, meta.Object, state.WALSeq(), meta.WALSeq)
	}
	return state, nil
}
