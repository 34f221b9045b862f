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
	objects   jetstream.ObjectStore
	pointers  jetstream.KeyValue
	partition int
	swept     uint64 // the claim under which it was
}

// pointer is the value in the key-value bucket.
type pointer struct {
	Checkpoints []runner.CheckpointMeta `json:"checkpoints"` // newest first, at most two
}

func openCheckpoints(ctx context.Context, js jetstream.JetStream, partition int) (*natsCheckpoints, error) {
	objects, err := js.ObjectStore(ctx, topology.CheckpointBucket)
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", topology.CheckpointBucket, err)
	}
	pointers, err := js.KeyValue(ctx, topology.CheckpointPointerBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.CheckpointPointerBucket, err)
	}
	return &natsCheckpoints{objects: objects, pointers: pointers, partition: partition}, nil
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
	meta := runner.CheckpointMeta{Object: c.freeObject(seen), WALSeq: snapshot.WALSeq(), Output: snapshot.Output(), TakenAt: takenAt}
	var err error
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
	if c.swept != kept.Claim {
		if err := c.sweep(ctx, kept); err != nil {
			return runner.Kept{}, err
		}
		c.swept = kept.Claim
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

// sweep deletes the partition's objects of earlier claims that the pointer does not
// name; it never will again. Those of this claim are written over by turns, and
// those of later ones may be named by now.
func (c *natsCheckpoints) sweep(ctx context.Context, kept runner.Kept) error {
	all, err := c.objects.List(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return fmt.Errorf("list the checkpoints: %w", err)
	}
	for _, info := range all {
		if claim, ours := c.claimOf(info.Name); !ours || claim >= kept.Claim || names(kept.Metas, info.Name) {
			continue
		}
		if err := c.objects.Delete(ctx, info.Name); err != nil {
			return fmt.Errorf("delete checkpoint %s of an earlier owner: %w", info.Name, err)
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
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	read, write := io.Pipe()
	written := make(chan error, 1)
	var bytes int64
	go func() {
		n, err := snapshot.WriteTo(io.MultiWriter(write, sum))
		bytes = n
		written <- errors.Join(err, write.CloseWithError(err))
	}()
	_, err := c.objects.Put(ctx, jetstream.ObjectMeta{Name: name}, read)
	err = errors.Join(err, read.CloseWithError(err)) // lets the writer go where Put stopped early
	if writeErr := <-written; err == nil {
		err = writeErr
	}
	return bytes, sum.Sum32(), err
}

func (c *natsCheckpoints) Load(ctx context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
	object, err := c.objects.Get(ctx, meta.Object)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fmt.Errorf("%w: object %s is gone", runner.ErrDamaged, meta.Object)
	}
	if err != nil {
		return nil, fmt.Errorf("open checkpoint %s: %w", meta.Object, err)
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	state, err := fold.Read(io.TeeReader(object, sum), params)
	if closeErr := object.Close(); err == nil {
		err = closeErr
	}
	switch {
	case errors.Is(err, fold.ErrSnapshot), errors.Is(err, jetstream.ErrDigestMismatch):
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
