package sequencer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/sequencer"
	"github.com/sendhouse/sendhouse/sequencer/checkpoint"
	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"

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

// A record that something else has published to the message log stops its partition, and
// the partition alone.
func TestStrayRecordStopsItsPartitionOnly(t *testing.T) {
	t.Parallel()
	for name, stray := range map[string]func(h *harness){
		"the write-ahead log grows": func(h *harness) {
			h.Publish(sequencertest.Send("c", "2"))
		},
		"nothing is sent": func(*harness) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &harness{sequencertest.SetupPartitions(t, 2)}
			reg := prometheus.NewRegistry()
			s, err := sequencer.New(h.Config, sequencer.Deps{NATS: h.NC, Answers: h.NC, JetStream: h.JS, Deployment: h.Deployment, Logger: slog.New(slog.DiscardHandler), Registerer: reg})
			require.NoError(t, err)
			h.Run(s)
			h.Ask(sequencertest.Send("c", "1"))
			h.Messages(1)
			_, err = h.JS.Publish(h.Ctx, topology.MessagesSubject(0), []byte("hello"))
			require.NoError(t, err)
			stray(h)
			err = h.Refusal(s)
			require.ErrorIs(t, err, runner.ErrInvariant)
			require.ErrorContains(t, err, "record 2 of the message log is no batch of messages (5 bytes")
			require.ErrorContains(t, err, "sendhouse repair message-log --partition 0")
			require.NoError(t, prometheustest.GatherAndCompare(reg, strings.NewReader(`
				# HELP sendhouse_sequencer_partition_refused 1 while the partition is not served because its logs or checkpoints are damaged or incomplete, else 0.
				# TYPE sendhouse_sequencer_partition_refused gauge
				sendhouse_sequencer_partition_refused{partition="0"} 1
				sendhouse_sequencer_partition_refused{partition="1"} 0
			`), "sendhouse_sequencer_partition_refused"))

			require.EqualValues(t, 1, h.Answer(h.PublishTo(1, sequencertest.Send("d", "1")))[0].GetMessageSeq(), "the other is served")
			testkit.WaitFor(t, sequencertest.Patience, "the status shows it", func(context.Context) error {
				all, err := sequencer.Status(h.Ctx, h.JS, h.Deployment)
				require.NoError(t, err)
				if all[0].State != "refused" || !strings.Contains(all[0].Problem, "record 2") || all[1].State != "served" || all[1].Problem != "" {
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
	h := &harness{sequencertest.SetupPartitions(t, 2)}
	_, stop := h.Start()
	h.Ask(sequencertest.Send("c", "1"))
	h.Messages(1)
	stop()
	h.Put([]byte("hello"))

	s, _ := h.Start()
	select {
	case <-s.Ready():
	case <-time.After(sequencertest.Patience):
		require.Fail(t, "one partition's refusal keeps the others waiting")
	}
	require.ErrorIs(t, h.Refusal(s), runner.ErrInvariant)
	require.EqualValues(t, 1, h.Answer(h.PublishTo(1, sequencertest.Send("d", "1")))[0].GetMessageSeq())

	h.DeleteMessageLog()
	h.Ensure()
	testkit.WaitFor(t, sequencertest.Patience, "the partition is served", func(context.Context) error { return s.Check() })
	require.EqualValues(t, 2, h.Ask(sequencertest.Send("c", "2"))[0].GetMessageSeq())
}

// A watcher of the leases sees that the write-ahead log cannot be written to, as does readiness, and its end.
func TestStorageFaultIsSeenInTheLease(t *testing.T) {
	t.Parallel()
	h := setup(t)
	s, _ := h.Start()
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
	fault := errors.New("stream SENDS_0 cannot be written to: no space left on device")
	s.NoteStorage(0, fault)
	await("the fault", func(c lease.Condition) bool { return c.Problem == fault.Error() })
	s.NoteStorage(0, nil)
	await("its end", func(c lease.Condition) bool { return c.Problem == "" })
	require.NoError(t, s.Check())
}

// watchLease returns what the lease of partition 0 says, until the test ends.
func (h *harness) watchLease() <-chan lease.Condition {
	h.T.Helper()
	kv, err := h.JS.KeyValue(h.Ctx, topology.LeaseBucket)
	require.NoError(h.T, err)
	seen := make(chan lease.Condition, 64)
	ctx, cancel := context.WithCancel(h.Ctx)
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
	h.T.Cleanup(func() { cancel(); <-ended })
	return seen
}

// A watcher of the leases sees a refusal, and its end.
func TestRefusalIsSeenInTheLease(t *testing.T) {
	t.Parallel()
	h := setup(t)
	s, _ := h.Start()
	<-s.Ready()
	seen := h.watchLease()
	require.False(t, (<-seen).Refused)
	h.Put([]byte("hello"))
	for c := range seen {
		if c.Refused {
			require.Contains(t, c.Problem, "record 1 of the message log")
			break
		}
	}
}

// checkpointed makes a log of records with checkpoints at 10 and 20, trimmed up to the
// older one, and returns the pointer to them.
func (h *harness) checkpointed() (jetstream.KeyValue, []byte) {
	h.T.Helper()
	at := time.Now()
	for round := range 2 {
		_, stop := h.Start()
		for i := range 10 {
			h.Ask(sequencertest.Send("c", fmt.Sprint(round, "-", i)))
		}
		stop()
		k := h.Keeper(func() time.Time { return at })
		at = at.Add(h.Config.CheckpointInterval)
		require.NoError(h.T, k.Checkpoint(h.Ctx))
		require.NoError(h.T, k.Trim(h.Ctx))
	}
	kv, err := h.JS.KeyValue(h.Ctx, topology.CheckpointPointerBucket)
	require.NoError(h.T, err)
	entry, err := kv.Get(h.Ctx, "p0")
	require.NoError(h.T, err)
	return kv, entry.Value()
}

// Any one bit of the pointer, the pointer cut short, emptied or gone: the checkpoints are
// found all the same, and the pointer is mended.
func TestDamagedPointerIsMendedFromTheCheckpoints(t *testing.T) {
	t.Parallel()
	h := setup(t)
	kv, good := h.checkpointed()
	damaged := 0
	for name, damage := range damages(good) {
		if damage == nil {
			require.NoError(t, kv.Purge(h.Ctx, "p0"), name)
		} else {
			_, err := kv.Put(h.Ctx, "p0", damage)
			require.NoError(t, err, name)
		}
		kept, err := h.Checkpoints().Claim(h.Ctx)
		require.NoError(t, err, name)
		if kept.Damaged != nil { // or it is a flip that JSON does not tell apart, and names the same checkpoints
			require.ErrorIs(t, kept.Damaged, checkpoint.ErrPointer, name)
			damaged++
		}
		require.Equal(t, []uint64{20, 10}, []uint64{kept.Metas[0].WALSeq, kept.Metas[1].WALSeq}, name)
		again, err := h.Checkpoints().List(h.Ctx)
		require.NoError(t, err, name)
		require.NoError(t, again.Damaged, "%s: the claim has mended it", name)
		require.Equal(t, kept.Metas[0].CRC32C, again.Metas[0].CRC32C, name)
	}
	require.Greater(t, damaged, len(good)*9/10)
	require.NoError(t, kv.Purge(h.Ctx, "p0"))
	require.EqualValues(t, 20, h.Recovered())
	h.Start()
	require.EqualValues(t, 21, h.Ask(sequencertest.Send("c", "new"))[0].GetMessageSeq())
}

func damages(good []byte) map[string][]byte {
	all := map[string][]byte{"gone": nil, "empty": {}, "cut short": good[:len(good)/2], "another": []byte(`{"checkpoints":[],"more":1}`)}
	for i := range good {
		flipped := append([]byte(nil), good...)
		flipped[i] ^= 1 << (i % 8)
		all[fmt.Sprintf("byte %d, bit %d", i, i%8)] = flipped
	}
	return all
}

// A pointer of the version before the checksum is read, and gets one with the next claim.
func TestPointerOfTheVersionBeforeIsRead(t *testing.T) {
	t.Parallel()
	h := setup(t)
	kv, good := h.checkpointed()
	var p struct {
		Checkpoints []runner.CheckpointMeta `json:"checkpoints"`
		CRC32C      *uint32                 `json:"crc32c,omitempty"`
	}
	require.NoError(t, json.Unmarshal(good, &p))
	require.NotNil(t, p.CRC32C)
	p.CRC32C = nil
	before, err := json.Marshal(p)
	require.NoError(t, err)
	_, err = kv.Put(h.Ctx, "p0", before)
	require.NoError(t, err)
	kept, err := h.Checkpoints().Claim(h.Ctx)
	require.NoError(t, err)
	require.NoError(t, kept.Damaged)
	entry, err := kv.Get(h.Ctx, "p0")
	require.NoError(t, err)
	require.Equal(t, string(good), string(entry.Value()))
}

// With the pointer and the checkpoints damaged, a log that is whole is folded again, and
// one that is not is refused.
func TestDamagedPointerAndCheckpoints(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Answered(10)
	require.NoError(t, h.Keeper(time.Now).Checkpoint(h.Ctx))
	spoil := func() {
		kv, err := h.JS.KeyValue(h.Ctx, topology.CheckpointPointerBucket)
		require.NoError(t, err)
		_, err = kv.Put(h.Ctx, "p0", []byte("no JSON"))
		require.NoError(t, err)
		described, err := h.Objects().List(h.Ctx)
		if !errors.Is(err, jetstream.ErrNoObjectsFound) {
			require.NoError(t, err)
		}
		for _, object := range described {
			_, err = h.Objects().PutBytes(h.Ctx, object.Name, []byte("not a checkpoint"))
			require.NoError(t, err)
		}
	}
	spoil()
	require.Zero(t, h.Recovered())

	objects, err := h.JS.Stream(h.Ctx, "OBJ_"+topology.CheckpointBucket)
	require.NoError(t, err)
	require.NoError(t, objects.Purge(h.Ctx))
	stream, err := h.JS.Stream(h.Ctx, topology.WALStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(h.Ctx, jetstream.WithPurgeSequence(5)))
	spoil()
	err = h.Refuses()
	require.ErrorIs(t, err, runner.ErrMissing)
	require.ErrorContains(t, err, "the write-ahead log starts at record 5")
}

// An object that is whole and of other parameters is no checkpoint.
func TestCheckpointOfOtherParametersIsNotUsed(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Answered(3)
	require.NoError(t, h.Keeper(time.Now).Checkpoint(h.Ctx))
	store := h.Checkpoints()
	kept, err := store.List(h.Ctx)
	require.NoError(t, err)
	_, err = store.Load(h.Ctx, kept.Metas[0], fold.Params{DedupWindow: 2 * h.Deployment.DedupWindow, DedupEntriesMax: h.Deployment.DedupEntriesMax})
	require.ErrorIs(t, err, runner.ErrDamaged)
}
