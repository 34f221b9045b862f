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
	epoch     uint64 // part of the names, so that a paused owner cannot write over its successor's
	swept     bool
}

// pointer is the value in the key-value bucket.
type pointer struct {
	Epoch       uint64                  `json:"epoch"`       // of the owner that last recovered or stored one
	Checkpoints []runner.CheckpointMeta `json:"checkpoints"` // newest first, at most two
}

func openCheckpoints(ctx context.Context, js jetstream.JetStream, partition int, epoch uint64) (*natsCheckpoints, error) {
	objects, err := js.ObjectStore(ctx, topology.CheckpointBucket)
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", topology.CheckpointBucket, err)
	}
	pointers, err := js.KeyValue(ctx, topology.CheckpointPointerBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.CheckpointPointerBucket, err)
	}
	return &natsCheckpoints{objects: objects, pointers: pointers, partition: partition, epoch: epoch}, nil
}

func (c *natsCheckpoints) key() string { return "p" + strconv.Itoa(c.partition) }

func (c *natsCheckpoints) List(ctx context.Context) (runner.Kept, error) {
	p, revision, err := c.pointer(ctx)
	return runner.Kept{Metas: p.Checkpoints, Epoch: p.Epoch, Version: revision}, err
}

func (c *natsCheckpoints) Claim(ctx context.Context) (runner.Kept, error) {
	kept, err := c.List(ctx)
	if err != nil {
		return runner.Kept{}, err
	}
	return c.move(ctx, kept.Version, kept.Metas)
}

// move moves the pointer, if it is still where it was seen.
func (c *natsCheckpoints) move(ctx context.Context, from uint64, to []runner.CheckpointMeta) (runner.Kept, error) {
	value, err := json.Marshal(pointer{Epoch: c.epoch, Checkpoints: to})
	if err != nil {
		return runner.Kept{}, fmt.Errorf("encode the checkpoint pointer: %w", err)
	}
	revision, err := c.pointers.Update(ctx, c.key(), value, from)
	if err != nil {
		return runner.Kept{}, fmt.Errorf("move the checkpoint pointer: %w", err)
	}
	return runner.Kept{Metas: to, Epoch: c.epoch, Version: revision}, nil
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
	if seen.Epoch > c.epoch {
		return runner.Kept{}, fmt.Errorf("%w: epoch %d has recovered, this owner's is %d", runner.ErrNotOwner, seen.Epoch, c.epoch)
	}
	meta := runner.CheckpointMeta{Object: c.freeObject(seen.Metas), WALSeq: snapshot.WALSeq(), Output: snapshot.Output(), TakenAt: takenAt}
	var err error
	if meta.Bytes, meta.CRC32C, err = c.put(ctx, meta.Object, snapshot); err != nil {
		return runner.Kept{}, fmt.Errorf("store checkpoint %s: %w", meta.Object, err)
	}
	metas := []runner.CheckpointMeta{meta}
	if beside != nil {
		metas = append(metas, *beside)
	}
	kept, err := c.move(ctx, seen.Version, metas)
	if err != nil {
		return runner.Kept{}, err
	}
	if !c.swept {
		if err := c.sweep(ctx, metas); err != nil {
			return runner.Kept{}, err
		}
		c.swept = true
	}
	return kept, nil
}

// freeObject is the name of an object that is not among those kept when they were
// last seen. So what the pointer names now is never written over, whoever has moved
// it since: a successor keeps none of this owner's objects but those.
func (c *natsCheckpoints) freeObject(seen []runner.CheckpointMeta) string {
	for _, turn := range []string{"a", "b"} {
		if name := fmt.Sprintf("%s.%d.%s", c.key(), c.epoch, turn); !names(seen, name) {
			return name
		}
	}
	return fmt.Sprintf("%s.%d.c", c.key(), c.epoch)
}

func names(metas []runner.CheckpointMeta, object string) bool {
	return slices.ContainsFunc(metas, func(m runner.CheckpointMeta) bool { return m.Object == object })
}

// sweep deletes the partition's objects that the pointer does not name: those of
// earlier owners. An owner's own are written over by turns; those of later owners
// may be named by now, if this one was paused since it moved the pointer.
func (c *natsCheckpoints) sweep(ctx context.Context, kept []runner.CheckpointMeta) error {
	all, err := c.objects.List(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return fmt.Errorf("list the checkpoints: %w", err)
	}
	for _, info := range all {
		if epoch, ours := c.epochOf(info.Name); !ours || epoch >= c.epoch || names(kept, info.Name) {
			continue
		}
		if err := c.objects.Delete(ctx, info.Name); err != nil {
			return fmt.Errorf("delete checkpoint %s of an earlier owner: %w", info.Name, err)
		}
	}
	return nil
}

// epochOf reads the epoch from the name of an object of this partition.
func (c *natsCheckpoints) epochOf(object string) (epoch uint64, ours bool) {
	rest, ours := strings.CutPrefix(object, c.key()+".")
	number, _, _ := strings.Cut(rest, ".")
	epoch, err := strconv.ParseUint(number, 10, 64)
	return epoch, ours && err == nil
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
