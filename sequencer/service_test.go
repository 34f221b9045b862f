package sequencer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/sequencer"
	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"
	"github.com/sendhouse/sendhouse/sequencer/natslog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// harness adds what the tests of this package ask.
type harness struct{ *sequencertest.Harness }

func setup(t testing.TB) *harness {
	t.Helper()
	return &harness{sequencertest.Setup(t)}
}

func TestSendsAreAnsweredAndDerived(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Start()

	first := h.Ask(sequencertest.Send("c", "1"), sequencertest.Send("d", "1"), sequencertest.Send("c", "2"))
	require.Equal(t, []uint64{1, 1, 2}, []uint64{first[0].GetMessageSeq(), first[1].GetMessageSeq(), first[2].GetMessageSeq()})

	again := h.Ask(sequencertest.Send("c", "2"))
	require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, again[0].GetOutcome())
	require.Equal(t, first[2].GetMessageId(), again[0].GetMessageId())

	other := sequencertest.Send("c", "2")
	other.Payload = []byte("something else")
	require.Equal(t, message.Outcome_OUTCOME_CONFLICT, h.Ask(other)[0].GetOutcome())

	require.EqualValues(t, 3, h.Ask(sequencertest.Send("c", "3"))[0].GetMessageSeq())
	h.RequireDerived()
}

func TestNoPersistIsLiveOnly(t *testing.T) {
	t.Parallel()
	h := setup(t)
	live, err := h.NC.SubscribeSync("live.2.c%2E1")
	require.NoError(t, err)
	h.Start()

	fleeting := sequencertest.Send("c.1", "1")
	fleeting.NoPersist = true
	answer := h.Ask(fleeting)[0]
	require.Zero(t, answer.GetMessageSeq())
	require.NotZero(t, answer.GetMessageId())

	raw, err := live.NextMsg(sequencertest.Patience)
	require.NoError(t, err)
	var m message.Message
	require.NoError(t, m.UnmarshalVT(raw.Data))
	require.Equal(t, answer.GetMessageId(), m.GetMessageId())

	require.EqualValues(t, 1, h.Ask(sequencertest.Send("c.1", "2"))[0].GetMessageSeq(), "it took no sequence number")
	require.Len(t, h.Messages(1), 1)
}

func TestRestartGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	before := h.Ask(sequencertest.Send("c", "1"), sequencertest.Send("c", "2"))
	stop()
	waiting := h.Publish(sequencertest.Send("c", "3"), sequencertest.Send("c", "2")) // written while no sequencer folds
	s, _ := h.Start()
	after := h.Answer(waiting)
	require.EqualValues(t, 3, after[0].GetMessageSeq())
	require.Equal(t, before[1].GetMessageId(), after[1].GetMessageId())
	<-s.Ready()
	require.NoError(t, s.Check())
	h.RequireDerived()
}

// Two that both believe to own a partition cannot harm it: their answers are the
// same, and each message gets into the log once.
func TestTwoOwnersWriteOnce(t *testing.T) {
	t.Parallel()
	h := setup(t)
	ctx, cancel := context.WithCancel(h.Ctx)
	done := make(chan error, 2)
	for range 2 {
		p := h.Partition(time.Now, func() {})
		go func() {
			for ctx.Err() == nil {
				if err := p.Run(ctx, sequencertest.Patience); runner.Permanent(err) {
					done <- err
					return
				}
				p = h.Partition(time.Now, func() {}) // it saw that another is ahead, and recovers
			}
			done <- nil
		}()
	}
	for i := range 200 {
		reply := h.Publish(sequencertest.Send("c", strconv.Itoa(i)))
		first, second := h.Answer(reply), h.Answer(reply)
		require.EqualValues(t, i+1, first[0].GetMessageSeq())
		require.True(t, first[0].EqualVT(second[0]))
	}
	h.RequireDerived()
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.EqualValues(t, 200, stream.CachedInfo().State.LastSeq)
}

func TestLostMessageLogIsDerivedAgain(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%t", running), func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			_, stop := h.Start()
			for i := range 50 {
				h.Ask(sequencertest.Send("c", strconv.Itoa(i)))
			}
			h.Messages(50)
			if !running {
				stop()
			}
			h.DeleteMessageLog()
			h.Ensure()
			if !running {
				h.Start()
			}
			h.Ask(sequencertest.Send("c", "50"))
			h.RequireDerived()
		})
	}
}

// A message log that was cut after an acknowledged message, as a power loss
// cuts it, is filled up from a checkpoint and the write-ahead log.
func TestMessageLogTailCut(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	for i := range 20 {
		h.Ask(sequencertest.Send("c", strconv.Itoa(i)))
	}
	whole := h.Messages(20)
	stop()

	// Put back only the first 12.
	h.DeleteMessageLog()
	h.Ensure()
	for i, m := range whole[:12] {
		data, err := m.MarshalVT()
		require.NoError(t, err)
		_, err = h.JS.PublishMsg(h.Ctx, &nats.Msg{
			Subject: topology.MessagesSubject(0), Data: testkit.MessageBatch(uint64(i+1), data), Header: nats.Header{"Content-Type": []string{message.BatchContentType}},
		}, jetstream.WithExpectLastSequence(uint64(i)))
		require.NoError(t, err)
	}
	h.Start()
	got := h.Messages(20)
	for i := range whole {
		require.True(t, whole[i].EqualVT(got[i]))
	}
}

// TestMessageLogHoleIsDerivedAgain: records missing from the middle of the message log, or from its front, as a power loss
// can leave it, are derived again, and so is what is after them.
func TestMessageLogHoleIsDerivedAgain(t *testing.T) {
	t.Parallel()
	middle := func(t *testing.T, h *harness, log jetstream.Stream) {
		t.Helper()
		for _, seq := range []uint64{5, 6, 11} {
			require.NoError(t, log.DeleteMsg(h.Ctx, seq))
		}
	}
	for name, lose := range map[string]func(*testing.T, *harness, jetstream.Stream){
		"middle": middle,
		"front": func(t *testing.T, h *harness, log jetstream.Stream) {
			t.Helper()
			require.NoError(t, log.Purge(h.Ctx, jetstream.WithPurgeSequence(4)))
		},
		"both": func(t *testing.T, h *harness, log jetstream.Stream) {
			t.Helper()
			require.NoError(t, log.Purge(h.Ctx, jetstream.WithPurgeSequence(4)))
			middle(t, h, log)
		},
		"while a cut is not finished": func(t *testing.T, h *harness, log jetstream.Stream) {
			t.Helper()
			middle(t, h, log)
			_, err := h.JS.CreateStream(h.Ctx, jetstream.StreamConfig{Name: broker.CutName(topology.MessagesStream(0))})
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			h.Answered(20)
			log, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
			require.NoError(t, err)
			lose(t, h, log)
			h.Start()
			h.Ask(sequencertest.Send("c", "21")) // it has recovered when this is answered
			h.RequireDerived()
		})
	}

	t.Run("while the owner runs", func(t *testing.T) {
		t.Parallel()
		h := setup(t)
		h.Start()
		for i := range 20 {
			h.Ask(sequencertest.Send("c", strconv.Itoa(i)))
		}
		h.Messages(20)
		log, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
		require.NoError(t, err)
		middle(t, h, log)
		require.Eventually(t, func() bool {
			log, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
			return err == nil && log.CachedInfo().State.Msgs == 20
		}, sequencertest.Patience, 50*time.Millisecond)
		h.RequireDerived()
	})
}

func TestForeignMessageIsAnInvariantBroken(t *testing.T) {
	t.Parallel()
	h := setup(t)
	data, err := (&message.Message{ChannelId: "c", ChannelType: 2, WalSeq: 1, WalIndex: 1}).MarshalVT()
	require.NoError(t, err)
	h.Publish(sequencertest.Send("c", "1"))
	h.Put(testkit.MessageBatch(1, data))
	require.ErrorIs(t, h.Refuses(), runner.ErrInvariant)
}

func TestCheckpointsTrimAndRecover(t *testing.T) {
	t.Parallel()
	h := setup(t)
	at := time.Now()
	now := func() time.Time { return at }
	var answers []*message.Answer
	for round := range 3 {
		_, stop := h.Start()
		for i := range 10 {
			answers = append(answers, h.Ask(sequencertest.Send("c", fmt.Sprint(round, "-", i)))...)
		}
		stop()
		k := h.Keeper(now)
		if round > 0 {
			require.False(t, k.Due(), "this keeper has not seen for long enough that the message log has what the newest needs")
		}
		at = at.Add(h.Config.CheckpointInterval)
		require.True(t, k.Due(), "round %d", round)
		require.NoError(t, k.Checkpoint(h.Ctx))
		require.NoError(t, k.Trim(h.Ctx))
		require.False(t, k.Due())
		wal, err := k.Logs.WALBounds(h.Ctx)
		require.NoError(t, err)
		require.EqualValues(t, max(1, (round-1)*10+11), wal.First, "trimmed up to the older checkpoint of round %d", round)
	}

	// From the newest, and, when that is damaged, from the older.
	store := h.Checkpoints()
	kept, err := store.List(h.Ctx)
	require.NoError(t, err)
	metas := kept.Metas
	require.Len(t, metas, 2)
	require.Equal(t, []uint64{30, 20}, []uint64{metas[0].WALSeq, metas[1].WALSeq})
	require.EqualValues(t, 30, h.Recovered())
	_, err = h.Objects().PutBytes(h.Ctx, metas[0].Object, []byte("not a checkpoint"))
	require.NoError(t, err)
	require.EqualValues(t, 20, h.Recovered())

	_, stop := h.Start()
	again := h.Ask(sequencertest.Send("c", "2-9"))
	require.Equal(t, answers[29].GetMessageId(), again[0].GetMessageId())
	require.EqualValues(t, 31, h.Ask(sequencertest.Send("c", "new"))[0].GetMessageSeq())
	stop()

	// With neither, and the log trimmed, to continue would repeat sequence numbers.
	require.NoError(t, h.Objects().Delete(h.Ctx, metas[1].Object))
	require.ErrorIs(t, h.Refuses(), runner.ErrMissing)
}

// A paused owner that wakes up cannot put its checkpoint in its successor's place.
func TestEarlierOwnerCannotStoreACheckpoint(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	h.Ask(sequencertest.Send("c", "1"))
	stop()
	earlier, later := h.Keeper(time.Now), h.Keeper(time.Now)
	require.ErrorContains(t, earlier.Store(h.Ctx, earlier.Snapshot()), "move the checkpoint pointer")
	require.NoError(t, later.Store(h.Ctx, later.Snapshot()))
}

func TestWriteAheadLogLost(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	h.Ask(sequencertest.Send("c", "1"))
	h.Messages(1)
	stop()
	require.NoError(t, h.JS.DeleteStream(h.Ctx, topology.WALStream(0)))
	h.Ensure()
	require.ErrorIs(t, h.Refuses(), runner.ErrMissing)
}

// Both logs are gone and the checkpoint is left: a new beginning would assign its numbers again.
func TestBothLogsLostAndACheckpointLeft(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	for i := range 10 {
		h.Ask(sequencertest.Send("c", strconv.Itoa(i)))
	}
	stop()
	require.NoError(t, h.Keeper(time.Now).Checkpoint(h.Ctx))
	require.NoError(t, h.JS.DeleteStream(h.Ctx, topology.WALStream(0)))
	h.DeleteMessageLog()
	h.Ensure()
	h.Publish(sequencertest.Send("c", "another"))
	err := h.Refuses()
	require.ErrorIs(t, err, runner.ErrMissing)
	require.ErrorContains(t, err, "taken at record 10, and the write-ahead log ends at 1")
}

func TestMalformedRecordIsPassedBy(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Start()
	_, err := h.JS.Publish(h.Ctx, topology.WALSubject(0), []byte("garbage"))
	require.NoError(t, err)
	require.EqualValues(t, 1, h.Ask(sequencertest.Send("c", "1"))[0].GetMessageSeq())
}

func TestNewReportsEverything(t *testing.T) {
	t.Parallel()
	_, err := sequencer.New(sequencer.Config{}, sequencer.Deps{})
	require.ErrorContains(t, err, "checkpoint-interval")
	require.ErrorContains(t, err, "outbox-messages-max")
	require.ErrorContains(t, err, "partitions")
	require.ErrorContains(t, err, "a connection")
}

// TestBothLogsCountAlike: a record that makes no message has one of its own in the message log, so that each has the sequence of
// what it was made from, and what follows continues with the next message.
func TestBothLogsCountAlike(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	live := sequencertest.Send("c", "live")
	live.NoPersist = true
	h.Ask(sequencertest.Send("c", "1"), sequencertest.Send("c", "2"))
	h.Ask(sequencertest.Send("c", "1"), sequencertest.Send("c", "2"))
	h.Ask(live)
	_, err := h.JS.Publish(h.Ctx, topology.WALSubject(0), []byte("garbage"))
	require.NoError(t, err)
	h.Ask(sequencertest.Send("c", "3"))
	h.Messages(3)
	requireRecords := func(firsts ...uint64) {
		t.Helper()
		log, err := messagelog.Open(h.Ctx, h.JS, 0)
		require.NoError(t, err)
		records, err := log.Records(h.Ctx)
		require.NoError(t, err)
		require.EqualValues(t, len(firsts), records.Last)
		reader, err := log.ReadRecords(h.Ctx, 1)
		require.NoError(t, err)
		defer reader.Stop()
		for i, first := range firsts {
			r, err := reader.NextRecord(h.Ctx)
			require.NoError(t, err)
			require.EqualValues(t, i+1, r.Seq)
			require.Equal(t, first, r.Batch.First, "record %d", r.Seq)
		}
	}
	requireRecords(1, 3, 3, 3, 3)
	stop()
	_, stop = h.Start() // it recovers after the last of them
	h.Ask(sequencertest.Send("c", "1"))
	h.Ask(sequencertest.Send("c", "4"))
	h.Messages(4)
	requireRecords(1, 3, 3, 3, 3, 4, 4)
	stop()
	h.RequireDerived()
}

func TestStatus(t *testing.T) {
	t.Parallel()
	h := setup(t)
	s, stop := h.Start()
	<-s.Ready()
	h.Ask(sequencertest.Send("c", "1"))
	all, err := sequencer.Status(h.Ctx, h.JS, h.Deployment)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NotEmpty(t, all[0].Owner)
	require.NotZero(t, all[0].Epoch)
	require.EqualValues(t, 1, all[0].WALLast)
	stop()
	all, err = sequencer.Status(h.Ctx, h.JS, h.Deployment)
	require.NoError(t, err)
	require.Empty(t, all[0].Owner)
	var b bytes.Buffer
	require.NoError(t, sequencer.WriteStatus(&b, all))
	require.Contains(t, b.String(), "nobody")
}

// TestAPartitionThatIsNotAdmitted is refused with what keeps it from being sequenced.
func TestAPartitionThatIsNotAdmitted(t *testing.T) {
	t.Parallel()
	h := setup(t)
	require.NoError(t, h.Service().AdmitPartition(h.Ctx, 0))
	reason := errors.New("the table is ahead")
	h.Admit = func(_ context.Context, partition int) error {
		require.Zero(t, partition)
		return reason
	}
	s := h.Service()
	err := s.AdmitPartition(h.Ctx, 0)
	require.ErrorIs(t, err, reason)
	require.ErrorIs(t, err, runner.ErrRefused)
	require.NoError(t, h.JS.DeleteStream(h.Ctx, topology.WALStream(0)))
	err = s.AdmitPartition(h.Ctx, 0)
	require.ErrorIs(t, err, broker.ErrLost)
	require.ErrorIs(t, err, runner.ErrRefused)
	require.ErrorContains(t, err, "sendhouse repair wal --partition 0")
}

// TestRunningPartitionMissesARecord: a record that is deleted before it is folded stops the partition, whether or not others follow.
func TestRunningPartitionMissesARecord(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Answered(5)
	h.Publish(sequencertest.Send("c", "lost"))
	wal, err := h.JS.Stream(h.Ctx, topology.WALStream(0))
	require.NoError(t, err)
	require.NoError(t, wal.DeleteMsg(h.Ctx, 6))
	logs, err := natslog.Open(h.NC, h.JS, 0, natslog.Options{Answers: h.NC})
	require.NoError(t, err)
	missing, err := logs.WALMissing(h.Ctx, 6)
	require.NoError(t, err)
	require.EqualValues(t, 6, missing)
	h.Publish(sequencertest.Send("c", "next"))
	require.ErrorIs(t, h.Refuses(), runner.ErrMissing)
}
