package sequencer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	prometheustest "github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// refusal waits until a running sequencer refuses partition 0, and returns why.
func (h *harness) refusal(s *Service) error {
	h.t.Helper()
	var problem error
	testkit.WaitFor(h.t, patience, "the partition is refused", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if held := s.held[0]; held == nil || !held.refused {
			return errors.New("it is not")
		}
		problem = s.held[0].problem
		return nil
	})
	require.ErrorIs(h.t, s.Check(), problem)
	return problem
}

// refuses starts a sequencer that must refuse, and returns why.
func (h *harness) refuses() error {
	h.t.Helper()
	s, stop := h.start()
	defer stop()
	return h.refusal(s)
}

// A record that something else has published to the message log stops its partition, and
// the partition alone.
func TestStrayRecordStopsItsPartitionOnly(t *testing.T) {
	t.Parallel()
	for name, stray := range map[string]func(h *harness){
		"the write-ahead log goes on": func(h *harness) {
			h.publish(send("c", "2"))
		},
		"nothing is sent": func(*harness) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setupPartitions(t, 2)
			reg := prometheus.NewRegistry()
			s, err := New(h.config, Deps{NATS: h.nc, Answers: h.nc, JetStream: h.js, Deployment: h.deployment, Logger: slog.New(slog.DiscardHandler), Registerer: reg})
			require.NoError(t, err)
			h.run(s)
			h.ask(send("c", "1"))
			h.messages(1)
			_, err = h.js.Publish(h.ctx, topology.MessagesSubject(0), []byte("hello"))
			require.NoError(t, err)
			stray(h)
			err = h.refusal(s)
			require.ErrorIs(t, err, runner.ErrInvariant)
			require.ErrorContains(t, err, "record 2 of the message log is no batch of messages (5 bytes")
			require.ErrorContains(t, err, "sendhouse repair message-log --partition 0")
			require.NoError(t, prometheustest.GatherAndCompare(reg, strings.NewReader(`
				# HELP sendhouse_sequencer_partition_refused 1 while the partition is not served because its logs or checkpoints are damaged or incomplete, else 0.
				# TYPE sendhouse_sequencer_partition_refused gauge
				sendhouse_sequencer_partition_refused{partition="0"} 1
				sendhouse_sequencer_partition_refused{partition="1"} 0
			`), "sendhouse_sequencer_partition_refused"))

			require.EqualValues(t, 1, h.answer(h.publishTo(1, send("d", "1")))[0].GetMessageSeq(), "the other is served")
			testkit.WaitFor(t, patience, "the status shows it", func(context.Context) error {
				all, err := Status(h.ctx, h.js, h.deployment)
				require.NoError(t, err)
				if all[0].State != stateRefused || !strings.Contains(all[0].Problem, "record 2") || all[1].State != stateServed || all[1].Problem != "" {
					return fmt.Errorf("it shows %+v", all)
				}
				return nil
			})
		})
	}
}

// A partition that is refused at the start does not keep the others waiting, and is
// served again after a repair, without a restart.
func TestRefusalEndsWithTheRepair(t *testing.T) {
	t.Parallel()
	h := setupPartitions(t, 2)
	_, stop := h.start()
	h.ask(send("c", "1"))
	h.messages(1)
	stop()
	_, err := h.js.Publish(h.ctx, topology.MessagesSubject(0), []byte("hello"))
	require.NoError(t, err)

	s, _ := h.start()
	select {
	case <-s.Ready():
	case <-time.After(patience):
		require.Fail(t, "one partition's refusal keeps the others waiting")
	}
	require.ErrorIs(t, h.refusal(s), runner.ErrInvariant)
	require.EqualValues(t, 1, h.answer(h.publishTo(1, send("d", "1")))[0].GetMessageSeq())

	require.NoError(t, h.js.DeleteStream(h.ctx, topology.MessagesStream(0)))
	h.ensure()
	testkit.WaitFor(t, patience, "the partition is served", func(context.Context) error { return s.Check() })
	require.EqualValues(t, 2, h.ask(send("c", "2"))[0].GetMessageSeq())
}

// A watcher of the leases sees that the write-ahead log cannot be written to, as does readiness, and its end.
func TestStorageFaultIsSeenInTheLease(t *testing.T) {
	t.Parallel()
	h := setup(t)
	s, _ := h.start()
	<-s.Ready()
	seen := h.watchLease()
	await := func(what string, is func(lease.Condition) bool) {
		t.Helper()
		for c := range seen {
			if is(c) {
				return
			}
		}
		require.Fail(t, what)
	}
	await("served", func(c lease.Condition) bool { return !c.Behind && c.Problem == "" })
	s.mu.Lock()
	held := s.held[0]
	s.mu.Unlock()
	fault := errors.New("stream SENDS_0 cannot be written to: no space left on device")
	held.noteStorage(fault)
	await("the fault", func(c lease.Condition) bool { return c.Problem == fault.Error() })
	held.noteStorage(nil)
	await("its end", func(c lease.Condition) bool { return c.Problem == "" })
	require.NoError(t, s.Check())
}

// watchLease returns what the lease of partition 0 says, until the test ends.
func (h *harness) watchLease() <-chan lease.Condition {
	h.t.Helper()
	kv, err := h.js.KeyValue(h.ctx, topology.LeaseBucket)
	require.NoError(h.t, err)
	seen := make(chan lease.Condition, 64)
	ctx, cancel := context.WithCancel(h.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(seen)
		_ = lease.Watch(ctx, kv, lease.RoleSequencer, func(partition int, o lease.Owner) { // ends with ctx
			if partition != 0 {
				return
			}
			select {
			case seen <- o.Condition:
			case <-ctx.Done():
			}
		})
	}()
	h.t.Cleanup(func() { cancel(); <-ended })
	return seen
}

// A watcher of the leases sees a refusal, and its end.
func TestRefusalIsSeenInTheLease(t *testing.T) {
	t.Parallel()
	h := setup(t)
	s, _ := h.start()
	<-s.Ready()
	seen := h.watchLease()
	require.False(t, (<-seen).Refused)
	_, err := h.js.Publish(h.ctx, topology.MessagesSubject(0), []byte("hello"))
	require.NoError(t, err)
	for c := range seen {
		if c.Refused {
			require.Contains(t, c.Problem, "record 1 of the message log")
			break
		}
	}
}

// checkpointed makes a log of records with checkpoints at 10 and 20, trimmed behind the
// older one, and returns the pointer to them.
func (h *harness) checkpointed() (jetstream.KeyValue, []byte) {
	h.t.Helper()
	at := time.Now()
	for round := range 2 {
		_, stop := h.start()
		for i := range 10 {
			h.ask(send("c", fmt.Sprint(round, "-", i)))
		}
		stop()
		k := keeperOf(h, func() time.Time { return at })
		at = at.Add(h.config.CheckpointInterval)
		require.NoError(h.t, k.Checkpoint(h.ctx))
		require.NoError(h.t, k.Trim(h.ctx))
	}
	kv, err := h.js.KeyValue(h.ctx, topology.CheckpointPointerBucket)
	require.NoError(h.t, err)
	entry, err := kv.Get(h.ctx, "p0")
	require.NoError(h.t, err)
	return kv, entry.Value()
}

// Any one bit of the pointer, the pointer cut short, emptied or gone: the checkpoints are
// found all the same, and the pointer is mended.
func TestDamagedPointerIsMendedFromTheCheckpoints(t *testing.T) {
	t.Parallel()
	h := setup(t)
	kv, good := h.checkpointed()
	for name, damage := range damages(t, good) {
		if damage == nil {
			require.NoError(t, kv.Purge(h.ctx, "p0"), name)
		} else {
			_, err := kv.Put(h.ctx, "p0", damage)
			require.NoError(t, err, name)
		}
		kept, err := h.checkpoints().Claim(h.ctx)
		require.NoError(t, err, name)
		require.Error(t, kept.Damaged, name)
		require.Equal(t, []uint64{20, 10}, []uint64{kept.Metas[0].WALSeq, kept.Metas[1].WALSeq}, name)
		again, err := h.checkpoints().List(h.ctx)
		require.NoError(t, err, name)
		require.NoError(t, again.Damaged, "%s: the claim has mended it", name)
		require.Equal(t, kept.Metas[0].CRC32C, again.Metas[0].CRC32C, name)
	}
	require.NoError(t, kv.Purge(h.ctx, "p0"))
	require.EqualValues(t, 20, h.recovered())
	h.start()
	require.EqualValues(t, 21, h.ask(send("c", "new"))[0].GetMessageSeq())
}

func damages(t *testing.T, good []byte) map[string][]byte {
	t.Helper()
	want, err := parsePointer(good)
	require.NoError(t, err)
	all := map[string][]byte{"gone": nil, "empty": {}, "cut short": good[:len(good)/2], "another": []byte(`{"checkpoints":[],"more":1}`)}
	for i := range good {
		for bit := range 8 {
			flipped := append([]byte(nil), good...)
			flipped[i] ^= 1 << bit
			p, err := parsePointer(flipped)
			if err == nil { // encoding/json reads names without regard to case, and time takes a comma for a point
				require.Equal(t, want, p, "bit %d of byte %d is not noticed: %s", bit, i, flipped)
				continue
			}
			require.ErrorIs(t, err, errPointer)
			if bit == i%8 { // reading the objects takes a while
				all[fmt.Sprintf("byte %d, bit %d", i, bit)] = flipped
			}
		}
	}
	return all
}

// A pointer of the version before the checksum is read, and gets one with the next claim.
func TestPointerOfTheVersionBeforeIsRead(t *testing.T) {
	t.Parallel()
	h := setup(t)
	kv, good := h.checkpointed()
	var p pointer
	require.NoError(t, json.Unmarshal(good, &p))
	require.NotNil(t, p.CRC32C)
	p.CRC32C = nil
	before, err := json.Marshal(p)
	require.NoError(t, err)
	_, err = kv.Put(h.ctx, "p0", before)
	require.NoError(t, err)
	kept, err := h.checkpoints().Claim(h.ctx)
	require.NoError(t, err)
	require.NoError(t, kept.Damaged)
	entry, err := kv.Get(h.ctx, "p0")
	require.NoError(t, err)
	require.Equal(t, string(good), string(entry.Value()))
}

// With the pointer and the checkpoints damaged, a log that is whole is folded again, and
// one that is not is refused.
func TestDamagedPointerAndCheckpoints(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.folded(10)
	require.NoError(t, keeperOf(h, time.Now).Checkpoint(h.ctx))
	spoil := func() {
		kv, err := h.js.KeyValue(h.ctx, topology.CheckpointPointerBucket)
		require.NoError(t, err)
		_, err = kv.Put(h.ctx, "p0", []byte("no JSON"))
		require.NoError(t, err)
		described, err := h.checkpoints().described(h.ctx)
		require.NoError(t, err)
		for _, object := range described {
			_, err = h.objects().PutBytes(h.ctx, object, []byte("not a checkpoint"))
			require.NoError(t, err)
		}
	}
	spoil()
	require.Zero(t, h.recovered())

	require.NoError(t, h.checkpoints().purgeAll(h))
	stream, err := h.js.Stream(h.ctx, topology.WALStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(h.ctx, jetstream.WithPurgeSequence(5)))
	spoil()
	err = h.refuses()
	require.ErrorIs(t, err, runner.ErrMissing)
	require.ErrorContains(t, err, "the write-ahead log starts at record 5")
}

// purgeAll drops the partition's objects.
func (c *natsCheckpoints) purgeAll(h *harness) error {
	subjects, err := objectSubjects(h.ctx, c.stream)
	for subject := range subjects {
		err = errors.Join(err, c.purgeObject(h.ctx, subject))
	}
	return err
}

// An object that is whole and of other parameters is no checkpoint.
func TestCheckpointOfOtherParametersIsNotUsed(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.folded(3)
	require.NoError(t, keeperOf(h, time.Now).Checkpoint(h.ctx))
	store := h.checkpoints()
	metas, err := store.findStored(h.ctx)
	require.NoError(t, err)
	_, err = store.Load(h.ctx, metas[0], fold.Params{DedupWindow: 2 * h.deployment.DedupWindow, DedupEntriesMax: h.deployment.DedupEntriesMax})
	require.ErrorIs(t, err, runner.ErrDamaged)
}
