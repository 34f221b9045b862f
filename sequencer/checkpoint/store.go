// Package checkpoint stores the checkpoints of a partition in an object store, and which
// of them count in a key-value bucket.
package checkpoint

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
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

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// Store keeps two checkpoints of a partition as objects, and a pointer
// that says which they are. The pointer moves, by compare-and-swap, only
// when the object is whole; so a checkpoint that was cut short by a crash is
// never taken for one: what the pointer says of the object then does not match.
type Store struct {
	js        jetstream.JetStream
	stream    jetstream.Stream // of the object store
	pointers  jetstream.KeyValue
	partition int
}

const pointerStream = "KV_" + topology.CheckpointPointerBucket

// pointer is the value in the key-value bucket.
type pointer struct {
	Checkpoints []runner.CheckpointMeta `json:"checkpoints"` // newest first, at most two
	// CRC32C is of the JSON of Checkpoints: a flipped bit may leave valid JSON that
	// says another number. Nil in pointers of versions before it.
	CRC32C *uint32 `json:"crc32c,omitempty"`
}

// ErrPointer marks a pointer that cannot be believed: damaged, or gone while there are
// checkpoints.
var ErrPointer = errors.New("damaged checkpoint pointer")

func encodePointer(metas []runner.CheckpointMeta) ([]byte, error) {
	sum, err := sumOf(metas)
	if err != nil {
		return nil, err
	}
	value, err := json.Marshal(pointer{Checkpoints: metas, CRC32C: &sum})
	if err != nil {
		return nil, fmt.Errorf("encode the checkpoint pointer: %w", err)
	}
	return value, nil
}

// parsePointer refuses whatever encodePointer does not write.
func parsePointer(value []byte) (pointer, error) {
	var p pointer
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields() // a name with a flipped bit
	if err := d.Decode(&p); err != nil {
		return pointer{}, fmt.Errorf("%w: %w", ErrPointer, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return pointer{}, fmt.Errorf("%w: bytes after its end", ErrPointer)
	}
	if p.CRC32C == nil {
		return p, nil
	}
	sum, err := sumOf(p.Checkpoints)
	if err != nil {
		return pointer{}, err
	}
	if sum != *p.CRC32C {
		return pointer{}, fmt.Errorf("%w: its content has checksum %08x, wanted %08x", ErrPointer, sum, *p.CRC32C)
	}
	return p, nil
}

func sumOf(metas []runner.CheckpointMeta) (uint32, error) {
	content, err := json.Marshal(metas)
	if err != nil {
		return 0, fmt.Errorf("encode the checkpoint pointer: %w", err)
	}
	return crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli)), nil
}

// Open opens the store of a partition. The buckets must exist.
func Open(ctx context.Context, js jetstream.JetStream, partition int) (*Store, error) {
	stream, err := js.Stream(ctx, objectStream)
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", topology.CheckpointBucket, err)
	}
	pointers, err := js.KeyValue(ctx, topology.CheckpointPointerBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.CheckpointPointerBucket, err)
	}
	return &Store{js: js, stream: stream, pointers: pointers, partition: partition}, nil
}

func (c *Store) key() string { return "p" + strconv.Itoa(c.partition) }

// List returns what the pointer names. If the pointer cannot be trusted, it looks at
// the checkpoints themselves.
func (c *Store) List(ctx context.Context) (runner.Kept, error) {
	p, revision, err := c.pointer(ctx)
	kept := runner.Kept{Metas: p.Checkpoints, Version: revision}
	if errors.Is(err, ErrPointer) {
		kept.Damaged = err
		kept.Metas, err = c.findStored(ctx)
	}
	return kept, err
}

// Claim implements [runner.Checkpoints].
func (c *Store) Claim(ctx context.Context) (runner.Kept, error) {
	kept, err := c.List(ctx)
	if err == nil && kept.Damaged != nil {
		err = c.clearUnreadable(ctx)
	}
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
func (c *Store) move(ctx context.Context, from uint64, to []runner.CheckpointMeta) (uint64, error) {
	value, err := encodePointer(to)
	if err != nil {
		return 0, err
	}
	var revision uint64
	if from == 0 { // it is not there, or was deleted
		revision, err = c.pointers.Create(ctx, c.key(), value)
	} else {
		revision, err = c.pointers.Update(ctx, c.key(), value, from)
	}
	if err != nil {
		return 0, fmt.Errorf("move the checkpoint pointer: %w", err)
	}
	return revision, nil
}

// Pointed returns the checkpoints that the pointer names. The error wraps ErrPointer if the pointer is damaged or lost.
func (c *Store) Pointed(ctx context.Context) ([]runner.CheckpointMeta, error) {
	p, _, err := c.pointer(ctx)
	return p.Checkpoints, err
}

// pointer reads it. One that cannot be believed is an error that wraps ErrPointer, with
// the revision that it has all the same.
func (c *Store) pointer(ctx context.Context) (pointer, uint64, error) {
	entry, err := c.pointers.Get(ctx, c.key())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return pointer{}, 0, c.neverWas(ctx)
	}
	if err != nil {
		return pointer{}, 0, fmt.Errorf("read the checkpoint pointer: %w", err)
	}
	p, err := parsePointer(entry.Value())
	if err != nil {
		return pointer{}, entry.Revision(), fmt.Errorf("%s of bucket %s: %w", c.key(), topology.CheckpointPointerBucket, err)
	}
	return p, entry.Revision(), nil
}

// neverWas asserts of a pointer that is not there that the partition has no checkpoint
// either. The first claim makes the pointer, and only then is a checkpoint stored.
func (c *Store) neverWas(ctx context.Context) error {
	unreadable, err := c.unreadable(ctx)
	if err != nil {
		return err
	}
	objects, err := c.described(ctx)
	switch {
	case err != nil:
		return err
	case unreadable:
		return fmt.Errorf("%s of bucket %s: %w: NATS counts it and cannot read it", c.key(), topology.CheckpointPointerBucket, ErrPointer)
	case len(objects) > 0:
		return fmt.Errorf("%s of bucket %s: %w: it is gone, and there are checkpoints", c.key(), topology.CheckpointPointerBucket, ErrPointer)
	}
	return nil
}

// unreadable reports whether the pointer's record is damaged on NATS's own disk: the
// server has it in its index, and does not find it.
func (c *Store) unreadable(ctx context.Context) (bool, error) {
	subject := "$KV." + topology.CheckpointPointerBucket + "." + c.key()
	_, err := broker.LastRecord(ctx, c.js, pointerStream, subject)
	if err == nil {
		return false, nil // a marker that says it was deleted
	}
	if !errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, fmt.Errorf("read the checkpoint pointer: %w", err)
	}
	stream, err := c.js.Stream(ctx, pointerStream)
	if err != nil {
		return false, fmt.Errorf("look at the checkpoint pointers: %w", err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return false, fmt.Errorf("look at the checkpoint pointers: %w", err)
	}
	return info.State.Subjects[subject] > 0, nil
}

// clearUnreadable takes the record of this partition's pointer out if it cannot be read:
// to write on the subject of a record that is damaged on its disk would stop the server
// from taking anything more for the bucket, and emptying the bucket is the one operation
// that does not read it. The pointers of the others are written again. Revisions keep
// counting, so an owner that has seen an older one is still refused, and claims again.
func (c *Store) clearUnreadable(ctx context.Context) error {
	unreadable, err := c.unreadable(ctx)
	if err != nil || !unreadable {
		return err
	}
	if err := c.rewritePointers(ctx); err != nil {
		return fmt.Errorf("take an unreadable pointer out of bucket %s: %w", topology.CheckpointPointerBucket, err)
	}
	return nil
}

func (c *Store) rewritePointers(ctx context.Context) error {
	stream, err := c.js.Stream(ctx, pointerStream)
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return err
	}
	readable := make(map[string][]byte)
	for subject := range info.State.Subjects {
		key := strings.TrimPrefix(subject, "$KV."+topology.CheckpointPointerBucket+".")
		entry, err := c.pointers.Get(ctx, key)
		switch {
		case err == nil:
			readable[key] = entry.Value()
		case !errors.Is(err, jetstream.ErrKeyNotFound):
			return err
		}
	}
	if err := stream.Purge(ctx); err != nil {
		return err
	}
	for key, value := range readable {
		if _, err := c.pointers.Create(ctx, key, value); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return err // its partition finds its checkpoints as this one does
		}
	}
	return nil
}

// Save implements [runner.Checkpoints].
func (c *Store) Save(ctx context.Context, snapshot *fold.Snapshot, takenAt time.Time, seen runner.Kept, beside *runner.CheckpointMeta) (runner.Kept, error) {
	err := c.sweep(ctx, seen) // first, for what is left over may be why there is no space
	if err != nil {
		return runner.Kept{}, err
	}
	meta := runner.CheckpointMeta{Object: c.freeObject(seen), WALSeq: snapshot.WALSeq(), PartitionSeq: snapshot.PartitionSeq(), TakenAt: takenAt}
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
func (c *Store) freeObject(seen runner.Kept) string {
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
func (c *Store) sweep(ctx context.Context, seen runner.Kept) error {
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
func (c *Store) claimOf(object string) (claim uint64, ours bool) {
	rest, ours := strings.CutPrefix(object, c.key()+".")
	number, _, _ := strings.Cut(rest, ".")
	claim, err := strconv.ParseUint(number, 10, 64)
	return claim, ours && err == nil
}

// put streams the snapshot into the object store.
func (c *Store) put(ctx context.Context, name string, snapshot *fold.Snapshot) (int64, uint32, error) {
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

// Load implements [runner.Checkpoints].
func (c *Store) Load(ctx context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
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
	case state.WALSeq() != meta.WALSeq || state.PartitionSeq() != meta.PartitionSeq:
		return nil, fmt.Errorf("%w: object %s is of record %d, the pointer says %d", runner.ErrDamaged, meta.Object, state.WALSeq(), meta.WALSeq)
	}
	return state, nil
}

// described names the partition's objects that have a description: those whose storing
// was not cut short.
func (c *Store) described(ctx context.Context) ([]string, error) {
	stored, err := objectSubjects(ctx, c.stream)
	if err != nil {
		return nil, fmt.Errorf("list the checkpoints: %w", err)
	}
	var objects []string
	for subject, object := range stored {
		if _, ours := c.claimOf(object); ours && strings.HasPrefix(subject, metaPrefix) {
			objects = append(objects, object)
		}
	}
	return objects, nil
}

// findStored describes the newest two checkpoints of the partition that are whole, from
// what is stored and not from the pointer. Each is the state after a record of the
// write-ahead log, whichever owner stored it and whether or not the pointer ever named it; recovery
// holds its place against the logs as it does with one that the pointer names.
func (c *Store) findStored(ctx context.Context) ([]runner.CheckpointMeta, error) {
	objects, err := c.described(ctx)
	if err != nil {
		return nil, err
	}
	var metas []runner.CheckpointMeta
	for _, object := range objects {
		meta, err := c.inspect(ctx, object)
		if errors.Is(err, runner.ErrDamaged) {
			continue // recovery names what is missing, if it cannot do without
		}
		if err != nil {
			return nil, err
		}
		metas = append(metas, meta)
	}
	slices.SortFunc(metas, func(a, b runner.CheckpointMeta) int {
		return cmp.Or(cmp.Compare(b.WALSeq, a.WALSeq), b.TakenAt.Compare(a.TakenAt), cmp.Compare(b.Object, a.Object))
	})
	return metas[:min(len(metas), 2)], nil
}

// inspect reads a whole object, holds it against the digest in its description, and
// describes it as the pointer would.
func (c *Store) inspect(ctx context.Context, name string) (runner.CheckpointMeta, error) {
	object, err := c.open(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound), errors.Is(err, jetstream.ErrBadObjectMeta):
		return runner.CheckpointMeta{}, fmt.Errorf("%w: object %s: %w", runner.ErrDamaged, name, err)
	case err != nil:
		return runner.CheckpointMeta{}, fmt.Errorf("open checkpoint %s: %w", name, err)
	}
	sum, digest := crc32.New(crc32.MakeTable(crc32.Castagnoli)), sha256.New()
	head, err := fold.ReadHead(io.TeeReader(object, io.MultiWriter(sum, digest)))
	switch {
	case errors.Is(err, fold.ErrSnapshot):
		return runner.CheckpointMeta{}, fmt.Errorf("%w: object %s: %w", runner.ErrDamaged, name, err)
	case err != nil:
		return runner.CheckpointMeta{}, fmt.Errorf("read checkpoint %s: %w", name, err)
	case jetstream.GetObjectDigestValue(digest) != object.info.Digest:
		return runner.CheckpointMeta{}, fmt.Errorf("%w: object %s is not what its description says", runner.ErrDamaged, name)
	}
	return runner.CheckpointMeta{
		Object: name, WALSeq: head.WALSeq, PartitionSeq: head.PartitionSeq, Bytes: int64(object.info.Size), CRC32C: sum.Sum32(), TakenAt: object.stored,
	}, nil
}
