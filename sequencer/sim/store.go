package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// store is the object store and the pointer of package sequencer's checkpoints.
type store struct {
	objects  []object
	metas    []runner.CheckpointMeta // what the pointer names, newest first
	revision uint64                  // of the pointer
}

type object struct {
	name    string
	claim   uint64 // part of the name
	data    []byte
	spoiled bool // by the run, on purpose
}

func (s *store) find(name string) *object {
	i := slices.IndexFunc(s.objects, func(o object) bool { return o.name == name })
	if i < 0 {
		return nil
	}
	return &s.objects[i]
}

func (s *store) put(o object) {
	if before := s.find(o.name); before != nil {
		*before = o
		return
	}
	s.objects = append(s.objects, o)
}

// whole reports whether a checkpoint can be read back as it was written.
func (s *store) whole(meta runner.CheckpointMeta) bool {
	o := s.find(meta.Object)
	return o != nil && int64(len(o.data)) == meta.Bytes && checksum(o.data) == meta.CRC32C
}

func (s *store) spoiled(meta runner.CheckpointMeta) bool {
	o := s.find(meta.Object)
	return o != nil && o.spoiled
}

func checksum(data []byte) uint32 {
	return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
}

// checkpoints has the rules of checkpoint.Store, with a place
// to crash or pause between any two of its steps.
type checkpoints struct {
	w *world
	o *owner
}

// call is the beginning of a call over the network.
func (c *checkpoints) call(op string) error {
	c.w.pointOf(c.o, op, c.w.plan.keepTimes)
	if !c.w.brokerUp() || c.w.troubled() {
		return fmt.Errorf("%s: %w", op, errBroker)
	}
	return nil
}

func (c *checkpoints) List(context.Context) (runner.Kept, error) {
	if err := c.call("list the checkpoints"); err != nil {
		return runner.Kept{}, err
	}
	return runner.Kept{Metas: slices.Clone(c.w.store.metas), Version: c.w.store.revision}, nil
}

func (c *checkpoints) Claim(ctx context.Context) (runner.Kept, error) {
	kept, err := c.List(ctx)
	if err != nil {
		return runner.Kept{}, err
	}
	kept.Version, err = c.move(kept.Version, kept.Metas)
	kept.Claim = kept.Version
	return kept, err
}

func (c *checkpoints) Load(_ context.Context, meta runner.CheckpointMeta, params fold.Params) (*fold.State, error) {
	if err := c.call("load a checkpoint"); err != nil {
		return nil, err
	}
	o := c.w.store.find(meta.Object)
	if o == nil {
		return nil, fmt.Errorf("%w: object %s is gone", runner.ErrDamaged, meta.Object)
	}
	state, err := fold.Read(bytes.NewReader(o.data), params)
	switch {
	case errors.Is(err, fold.ErrSnapshot):
		return nil, fmt.Errorf("%w: object %s: %w", runner.ErrDamaged, meta.Object, err)
	case err != nil:
		return nil, err
	case checksum(o.data) != meta.CRC32C:
		return nil, fmt.Errorf("%w: object %s: checksum", runner.ErrDamaged, meta.Object)
	case state.WALSeq() != meta.WALSeq || state.PartitionSeq() != meta.PartitionSeq:
		return nil, fmt.Errorf("%w: object %s: position", runner.ErrDamaged, meta.Object)
	}
	return state, nil
}

func (c *checkpoints) Save(_ context.Context, snapshot *fold.Snapshot, takenAt time.Time, seen runner.Kept, beside *runner.CheckpointMeta) (runner.Kept, error) {
	err := c.sweep(seen)
	if err != nil {
		return runner.Kept{}, err
	}
	meta := runner.CheckpointMeta{Object: c.freeObject(seen), WALSeq: snapshot.WALSeq(), PartitionSeq: snapshot.PartitionSeq(), TakenAt: takenAt}
	var data bytes.Buffer
	if meta.Bytes, err = snapshot.WriteTo(&data); err != nil {
		return runner.Kept{}, err
	}
	meta.CRC32C = checksum(data.Bytes())
	kept := runner.Kept{Metas: []runner.CheckpointMeta{meta}, Claim: seen.Claim}
	if beside != nil {
		kept.Metas = append(kept.Metas, *beside)
	}
	put := func() error { return c.put(object{name: meta.Object, claim: seen.Claim, data: data.Bytes()}) }
	move := func() (err error) {
		kept.Version, err = c.move(seen.Version, slices.Clone(kept.Metas))
		return err
	}
	if c.w.bug.pointerFirst {
		put, move = move, put
	}
	if err := put(); err != nil {
		return runner.Kept{}, err
	}
	if err := move(); err != nil {
		return runner.Kept{}, err
	}
	return kept, nil
}

func (c *checkpoints) freeObject(seen runner.Kept) string {
	for _, turn := range []string{"a", "b"} {
		if name := fmt.Sprintf("p.%d.%s", seen.Claim, turn); !names(seen.Metas, name) || c.w.bug.oneObject {
			return name
		}
	}
	return fmt.Sprintf("p.%d.c", seen.Claim)
}

func names(metas []runner.CheckpointMeta, object string) bool {
	return slices.ContainsFunc(metas, func(m runner.CheckpointMeta) bool { return m.Object == object })
}

// put stores an object; a crash in the middle leaves half of it.
func (c *checkpoints) put(o object) error {
	w := c.w
	if err := c.call("put a checkpoint"); err != nil {
		return err
	}
	if names(w.store.metas, o.name) && !w.bug.oneObject {
		w.fail("owner %d writes over %s, which the pointer names", c.o.id, o.name)
	}
	half := o
	half.data = o.data[:w.rand.IntN(len(o.data))]
	w.store.put(half)
	w.check.recoverable(w, "a checkpoint is half written")
	if err := c.call("put the other half of a checkpoint"); err != nil {
		return err
	}
	w.store.put(o)
	return nil
}

// move moves the pointer; its answer may be lost.
func (c *checkpoints) move(from uint64, metas []runner.CheckpointMeta) (uint64, error) {
	s := &c.w.store
	if err := c.call("move the pointer"); err != nil {
		return 0, err
	}
	if s.revision != from && !c.w.bug.moveAnyway {
		return 0, fmt.Errorf("move the pointer: %w", errWrongLast)
	}
	s.revision++
	s.metas = metas
	revision := s.revision
	c.w.check.moved(c.w, c.o)
	return revision, c.call("answer that the pointer was moved")
}

// sweep deletes the objects of this claim and earlier ones that are not kept.
func (c *checkpoints) sweep(seen runner.Kept) error {
	s := &c.w.store
	if err := c.call("list the objects"); err != nil {
		return err
	}
	for _, o := range slices.Clone(s.objects) {
		if (o.claim > seen.Claim && !c.w.bug.sweepLater) || names(seen.Metas, o.name) {
			continue
		}
		if err := c.call("delete an object"); err != nil {
			return err
		}
		if names(s.metas, o.name) {
			c.w.fail("owner %d deletes %s, which the pointer names", c.o.id, o.name)
		}
		s.objects = slices.DeleteFunc(s.objects, func(other object) bool { return other.name == o.name })
	}
	return nil
}

// damage spoils an object: a bit flips, or its end is gone.
func (s *store) damage(w *world, meta runner.CheckpointMeta) {
	o := s.find(meta.Object)
	if o == nil || len(o.data) == 0 {
		return
	}
	data := bytes.Clone(o.data)
	if w.chance(0.5) {
		data = data[:w.rand.IntN(len(data))]
	} else {
		data[w.rand.IntN(len(data))] ^= 1 << w.rand.IntN(8)
	}
	o.data, o.spoiled = data, true
	w.event("checkpoint %s is damaged", meta.Object)
}
