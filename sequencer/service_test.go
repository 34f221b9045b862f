package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

func TestSendsAreAnsweredAndDerived(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.start()

	first := h.ask(send("c", "1"), send("d", "1"), send("c", "2"))
	require.Equal(t, []uint64{1, 1, 2}, []uint64{first[0].GetMessageSeq(), first[1].GetMessageSeq(), first[2].GetMessageSeq()})

	again := h.ask(send("c", "2"))
	require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, again[0].GetOutcome())
	require.Equal(t, first[2].GetMessageId(), again[0].GetMessageId())

	other := send("c", "2")
	other.Payload = []byte("something else")
	require.Equal(t, message.Outcome_OUTCOME_CONFLICT, h.ask(other)[0].GetOutcome())

	require.EqualValues(t, 3, h.ask(send("c", "3"))[0].GetMessageSeq())
	h.requireDerived()
}

func TestNoPersistIsLiveOnly(t *testing.T) {
	t.Parallel()
	h := setup(t)
	live, err := h.nc.SubscribeSync("live.2.c%2E1")
	require.NoError(t, err)
	h.start()

	fleeting := send("c.1", "1")
	fleeting.NoPersist = true
	answer := h.ask(fleeting)[0]
	require.Zero(t, answer.GetMessageSeq())
	require.NotZero(t, answer.GetMessageId())

	raw, err := live.NextMsg(patience)
	require.NoError(t, err)
	var m message.Message
	require.NoError(t, m.UnmarshalVT(raw.Data))
	require.Equal(t, answer.GetMessageId(), m.GetMessageId())

	require.EqualValues(t, 1, h.ask(send("c.1", "2"))[0].GetMessageSeq(), "it took no sequence number")
	require.Len(t, h.messages(1), 1)
}

func TestRestartGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	before := h.ask(send("c", "1"), send("c", "2"))
	stop()
	waiting := h.publish(send("c", "3"), send("c", "2")) // written while nobody folds
	s, _ := h.start()
	after := h.answer(waiting)
	require.EqualValues(t, 3, after[0].GetMessageSeq())
	require.Equal(t, before[1].GetMessageId(), after[1].GetMessageId())
	<-s.Ready()
	require.NoError(t, s.Check())
	h.requireDerived()
}

// Two that both believe to own a partition cannot harm it: their answers are the
// same, and each message gets into the log once.
func TestTwoOwnersWriteOnce(t *testing.T) {
	t.Parallel()
	h := setup(t)
	ctx, cancel := context.WithCancel(h.ctx)
	done := make(chan error, 2)
	for range 2 {
		p := h.partition(time.Now, func() {})
		go func() {
			for ctx.Err() == nil {
				if err := p.Run(ctx, patience); runner.Permanent(err) {
					done <- err
					return
				}
				p = h.partition(time.Now, func() {}) // it saw that another is ahead, and recovers
			}
			done <- nil
		}()
	}
	for i := range 200 {
		reply := h.publish(send("c", strconv.Itoa(i)))
		first, second := h.answer(reply), h.answer(reply)
		require.EqualValues(t, i+1, first[0].GetMessageSeq())
		require.True(t, first[0].EqualVT(second[0]))
	}
	h.requireDerived()
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.EqualValues(t, 200, stream.CachedInfo().State.LastSeq)
}

func TestLostMessageLogIsDerivedAgain(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%t", running), func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			_, stop := h.start()
			for i := range 50 {
				h.ask(send("c", strconv.Itoa(i)))
			}
			h.messages(50)
			if !running {
				stop()
			}
			require.NoError(t, h.js.DeleteStream(h.ctx, topology.MessagesStream(0)))
			h.ensure()
			if !running {
				h.start()
			}
			h.ask(send("c", "50"))
			h.requireDerived()
		})
	}
}

// A message log that was cut behind an acknowledged message, as a power loss
// cuts it, is filled up from a checkpoint and the write-ahead log.
func TestMessageLogTailCut(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	for i := range 20 {
		h.ask(send("c", strconv.Itoa(i)))
	}
	whole := h.messages(20)
	stop()

	// Put back only the first 12.
	require.NoError(t, h.js.DeleteStream(h.ctx, topology.MessagesStream(0)))
	h.ensure()
	for i, m := range whole[:12] {
		data, err := m.MarshalVT()
		require.NoError(t, err)
		_, err = h.js.PublishMsg(h.ctx, &nats.Msg{
			Subject: topology.MessagesSubject(0), Data: testkit.MessageBatch(uint64(i+1), data), Header: nats.Header{"Content-Type": []string{message.BatchContentType}},
		}, jetstream.WithExpectLastSequence(uint64(i)))
		require.NoError(t, err)
	}
	h.start()
	got := h.messages(20)
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
			require.NoError(t, log.DeleteMsg(h.ctx, seq))
		}
	}
	for name, lose := range map[string]func(*testing.T, *harness, jetstream.Stream){
		"middle": middle,
		"front": func(t *testing.T, h *harness, log jetstream.Stream) {
			t.Helper()
			require.NoError(t, log.Purge(h.ctx, jetstream.WithPurgeSequence(4)))
		},
		"both": func(t *testing.T, h *harness, log jetstream.Stream) {
			t.Helper()
			require.NoError(t, log.Purge(h.ctx, jetstream.WithPurgeSequence(4)))
			middle(t, h, log)
		},
		"while a cut is not finished": func(t *testing.T, h *harness, log jetstream.Stream) {
			t.Helper()
			middle(t, h, log)
			_, err := h.js.CreateStream(h.ctx, jetstream.StreamConfig{Name: broker.CutName(topology.MessagesStream(0))})
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			h.folded(20)
			log, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
			require.NoError(t, err)
			lose(t, h, log)
			h.start()
			h.ask(send("c", "21")) // it has recovered when this is answered
			h.requireDerived()
		})
	}

	t.Run("while the owner runs", func(t *testing.T) {
		t.Parallel()
		h := setup(t)
		h.start()
		for i := range 20 {
			h.ask(send("c", strconv.Itoa(i)))
		}
		h.messages(20)
		log, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
		require.NoError(t, err)
		middle(t, h, log)
		require.Eventually(t, func() bool {
			log, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
			return err == nil && log.CachedInfo().State.Msgs == 20
		}, patience, 50*time.Millisecond)
		h.requireDerived()
	})
}

func TestForeignMessageIsAnInvariantBroken(t *testing.T) {
	t.Parallel()
	h := setup(t)
	data, err := (&message.Message{ChannelId: "c", ChannelType: 2, WalSeq: 1, WalIndex: 1}).MarshalVT()
	require.NoError(t, err)
	h.publish(send("c", "1"))
	h.put(testkit.MessageBatch(1, data))
	require.ErrorIs(t, h.refuses(), runner.ErrInvariant)
}

// keeperOf gives a keeper over a partition of its own that has folded all that is in
// the log and brought it into the message log.
func keeperOf(h *harness, now func() time.Time) *runner.Keeper {
	caughtUp := make(chan struct{})
	p := h.partition(now, func() { close(caughtUp) })
	ctx, cancel := context.WithCancel(h.ctx)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, patience) }()
	<-caughtUp
	cancel() // Run hands over what is derived
	require.NoError(h.t, <-done)
	k := p.Keeper()
	require.NoError(h.t, k.Look(h.ctx))
	return k
}

func (h *harness) partition(now func() time.Time, caughtUp func()) *runner.Partition {
	logs, err := openLogs(h.nc, h.nc, h.js, 0, false)
	require.NoError(h.t, err)
	return runner.New(h.config.Config, fold.Params{DedupWindow: h.deployment.DedupWindow, DedupEntriesMax: h.deployment.DedupEntriesMax}, runner.Deps{
		Logs: logs, Checkpoints: h.checkpoints(), Logger: slog.New(slog.DiscardHandler),
		Metrics: runner.NewMetrics(prometheus.NewRegistry()).Partition(0), Now: now, MayWrite: func() bool { return true }, CaughtUp: caughtUp,
	})
}

func (h *harness) checkpoints() *natsCheckpoints {
	store, err := openCheckpoints(h.ctx, h.js, 0)
	require.NoError(h.t, err)
	return store
}

// recovered is the record up to which a checkpoint is good.
func (h *harness) recovered() uint64 {
	p := h.partition(time.Now, func() {})
	require.NoError(h.t, p.Recover(h.ctx))
	return p.Progress().WALSeq
}

func TestCheckpointsTrimAndRecover(t *testing.T) {
	t.Parallel()
	h := setup(t)
	at := time.Now()
	now := func() time.Time { return at }
	var answers []*message.Answer
	for round := range 3 {
		_, stop := h.start()
		for i := range 10 {
			answers = append(answers, h.ask(send("c", fmt.Sprint(round, "-", i)))...)
		}
		stop()
		k := keeperOf(h, now)
		if round > 0 {
			require.False(t, k.Due(), "this keeper has not seen for long enough that the message log has what the newest needs")
		}
		at = at.Add(h.config.CheckpointInterval)
		require.True(t, k.Due(), "round %d", round)
		require.NoError(t, k.Checkpoint(h.ctx))
		require.NoError(t, k.Trim(h.ctx))
		require.False(t, k.Due())
		wal, err := k.Logs.WALBounds(h.ctx)
		require.NoError(t, err)
		require.EqualValues(t, max(1, (round-1)*10+11), wal.First, "trimmed behind the older checkpoint of round %d", round)
	}

	// From the newest, and, when that is damaged, from the older.
	store := h.checkpoints()
	kept, err := store.List(h.ctx)
	require.NoError(t, err)
	metas := kept.Metas
	require.Len(t, metas, 2)
	require.Equal(t, []uint64{30, 20}, []uint64{metas[0].WALSeq, metas[1].WALSeq})
	require.EqualValues(t, 30, h.recovered())
	_, err = h.objects().PutBytes(h.ctx, metas[0].Object, []byte("not a checkpoint"))
	require.NoError(t, err)
	require.EqualValues(t, 20, h.recovered())

	_, stop := h.start()
	again := h.ask(send("c", "2-9"))
	require.Equal(t, answers[29].GetMessageId(), again[0].GetMessageId())
	require.EqualValues(t, 31, h.ask(send("c", "new"))[0].GetMessageSeq())
	stop()

	// With neither, and the log trimmed, going on would repeat sequence numbers.
	require.NoError(t, h.objects().Delete(h.ctx, metas[1].Object))
	require.ErrorIs(t, h.refuses(), runner.ErrMissing)
}

// A paused owner that wakes up cannot put its checkpoint in its successor's place.
func TestEarlierOwnerCannotStoreACheckpoint(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	h.ask(send("c", "1"))
	stop()
	earlier, later := keeperOf(h, time.Now), keeperOf(h, time.Now)
	require.ErrorContains(t, earlier.Store(h.ctx, earlier.Snapshot()), "move the checkpoint pointer")
	require.NoError(t, later.Store(h.ctx, later.Snapshot()))
}

func TestWriteAheadLogLost(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	h.ask(send("c", "1"))
	h.messages(1)
	stop()
	require.NoError(t, h.js.DeleteStream(h.ctx, topology.WALStream(0)))
	h.ensure()
	require.ErrorIs(t, h.refuses(), runner.ErrMissing)
}

// Both logs are gone and the checkpoint is left: to begin anew would give its numbers out again.
func TestBothLogsLostAndACheckpointLeft(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	for i := range 10 {
		h.ask(send("c", strconv.Itoa(i)))
	}
	stop()
	require.NoError(t, keeperOf(h, time.Now).Checkpoint(h.ctx))
	require.NoError(t, h.js.DeleteStream(h.ctx, topology.WALStream(0)))
	require.NoError(t, h.js.DeleteStream(h.ctx, topology.MessagesStream(0)))
	h.ensure()
	h.publish(send("c", "another"))
	err := h.refuses()
	require.ErrorIs(t, err, runner.ErrMissing)
	require.ErrorContains(t, err, "taken at record 10, and the write-ahead log ends at 1")
}

func TestMalformedRecordIsPassedBy(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.start()
	_, err := h.js.Publish(h.ctx, topology.WALSubject(0), []byte("garbage"))
	require.NoError(t, err)
	require.EqualValues(t, 1, h.ask(send("c", "1"))[0].GetMessageSeq())
}

func TestNewReportsEverything(t *testing.T) {
	t.Parallel()
	_, err := New(Config{}, Deps{})
	require.ErrorContains(t, err, "checkpoint-interval")
	require.ErrorContains(t, err, "outbox-messages-max")
	require.ErrorContains(t, err, "partitions")
	require.ErrorContains(t, err, "a connection")
}

// TestRefoldOutlastsAStalledConsumer: a consumer that delivers nothing, though the message log goes on, is no message that is missing.
func TestRefoldOutlastsAStalledConsumer(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	h.ask(send("c", "1"))
	h.messages(1)
	messages, err := messagelog.Open(h.ctx, h.js, 0)
	require.NoError(t, err)
	reader, err := messages.ReadRecords(h.ctx, 2)
	require.NoError(t, err)
	stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	names := stream.ConsumerNames(h.ctx)
	for name := range names.Name() {
		_, err := stream.PauseConsumer(h.ctx, name, time.Now().Add(time.Hour))
		require.NoError(t, err)
	}
	require.NoError(t, names.Err())
	h.ask(send("c", "2"))
	h.messages(2)
	stop()

	r := &refold{part: &audit.Part{}, logs: &natsLogs{js: h.js}, log: messages, messages: reader, patience: time.Second}
	defer reader.Stop()
	require.ErrorContains(t, r.read(h.ctx, 2), "record 2 is in the message log, and did not come within 1s")
	r.patience = refoldPatience
	require.NoError(t, r.read(h.ctx, 2))
	require.NotNil(t, r.ahead)
	require.EqualValues(t, 2, r.ahead.Seq)
	r.ahead, r.patience = nil, time.Second
	require.NoError(t, r.read(h.ctx, 3))
	require.Nil(t, r.ahead, "the log has no third")
}

func TestRefoldFindsWhatDiffers(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	for i := range 30 {
		h.ask(send("c", strconv.Itoa(i)), send("c", strconv.Itoa(i)))
	}
	h.messages(30)
	report, err := Refold(h.ctx, h.js, h.deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Zero(t, report.Differences)
	require.Equal(t, []uint64{60, 30}, []uint64{report.Details.(*Refolded).Sends, report.Compared})
	stop()

	stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(h.ctx, 7))
	h.put([]byte("a foreign record"))
	report, err = Refold(h.ctx, h.js, h.deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.EqualValues(t, 2, report.Differences)
	require.Contains(t, report.First[0], "record 7 of the message log is missing: 1 messages, up to message 7")
	require.Contains(t, report.First[1], "had 31 records, the write-ahead log makes 30")
}

// TestRefoldNamesWhatIsOtherInARecord: a message with other content, and a head that says something else.
func TestRefoldNamesWhatIsOtherInARecord(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	for i := range 3 {
		no := strconv.Itoa(i)
		h.ask(send("c", no), send("c", no), send("d", no))
	}
	whole := h.messages(6)
	stop()
	encode := func(m *message.Message) []byte {
		data, err := m.MarshalVT()
		require.NoError(t, err)
		return data
	}
	require.NoError(t, h.js.DeleteStream(h.ctx, topology.MessagesStream(0)))
	h.ensure()
	whole[1].Payload = []byte("changed")
	h.put(testkit.MessageBatch(1, encode(whole[0]), encode(whole[1])))
	h.put(testkit.MessageBatch(4, encode(whole[2]), encode(whole[3])))
	h.put(testkit.MessageBatch(5, encode(whole[4])))
	report, err := Refold(h.ctx, h.js, h.deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.EqualValues(t, 3, report.Differences, report.First)
	require.EqualValues(t, 6, report.Compared)
	require.Contains(t, report.First[0], "message_seq 1 of channel 2/d (partition_seq 2, message_id ")
	require.Contains(t, report.First[0], "record 1) has other content")
	require.Contains(t, report.First[1], "record 2 of the message log holds 2 messages from 4 on")
	require.Contains(t, report.First[2], "record 3 of the message log holds 1 messages from 5 on")
}

// TestRefoldGoesOnBehindAForeignRecord: a record that is no MessageBatch is a difference like another, also where the one before it is
// missing, and so is each record that has a message too many or names another newest ID.
func TestRefoldGoesOnBehindAForeignRecord(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	for i := range 7 {
		h.ask(send("c", strconv.Itoa(i)))
	}
	whole := h.messages(7)
	stop()
	encoded := make([][]byte, len(whole))
	for i, m := range whole {
		var err error
		encoded[i], err = m.MarshalVT()
		require.NoError(t, err)
	}
	require.NoError(t, h.js.DeleteStream(h.ctx, topology.MessagesStream(0)))
	h.ensure()
	newest := message.AppendBatchHead(nil, 6, message.ID(whole[5].GetMessageId())+1)
	for i, record := range [][]byte{
		testkit.MessageBatch(1, encoded[0]),
		[]byte("no batch"),
		testkit.MessageBatch(3, encoded[2]), // deleted below
		[]byte("no batch"),
		testkit.MessageBatch(5, encoded[4], encoded[4]),
		append(newest, testkit.MessageBatch(6, encoded[5])[len(newest):]...),
		testkit.MessageBatch(7, encoded[6]),
	} {
		require.Equal(t, i == 5, bytes.HasPrefix(record, newest))
		h.put(record)
	}
	stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(h.ctx, 3))
	report, err := Refold(h.ctx, h.js, h.deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for i, want := range []string{
		"record 2 of the message log: not an encoded MessageBatch",
		"record 3 of the message log is missing",
		"record 4 of the message log: not an encoded MessageBatch",
		"record 5 of the message log holds 2 messages from 5 on",
		fmt.Sprintf("record 6 of the message log holds 1 messages from 6 on, up to message_id %d, wanted 1 up to message 6 and message_id %d", whole[5].GetMessageId()+1, whole[5].GetMessageId()),
	} {
		require.Contains(t, report.First[i], want)
	}
	require.EqualValues(t, 5, report.Differences, report.First)
	require.EqualValues(t, 6, report.Compared)
}

// TestRefoldNamesAnEndThatIsDeleted: that the stream counts a record does not mean that it has it.
func TestRefoldNamesAnEndThatIsDeleted(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.folded(3)
	stream, err := h.js.Stream(h.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(h.ctx, 3))
	report, err := Refold(h.ctx, h.js, h.deployment, 0, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "the message log ends before record 3")
	require.EqualValues(t, 1, report.Differences)
	require.Contains(t, report.First[0], "record 3 of the message log is missing")
}

// TestBothLogsCountAlike: a record that makes no message has one of its own in the message log, so that each has the sequence of
// what it was made from, and what comes behind goes on with the next message.
func TestBothLogsCountAlike(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	live := send("c", "live")
	live.NoPersist = true
	h.ask(send("c", "1"), send("c", "2"))
	h.ask(send("c", "1"), send("c", "2"))
	h.ask(live)
	_, err := h.js.Publish(h.ctx, topology.WALSubject(0), []byte("garbage"))
	require.NoError(t, err)
	h.ask(send("c", "3"))
	h.messages(3)
	requireRecords := func(firsts ...uint64) {
		t.Helper()
		log, err := messagelog.Open(h.ctx, h.js, 0)
		require.NoError(t, err)
		records, err := log.Records(h.ctx)
		require.NoError(t, err)
		require.EqualValues(t, len(firsts), records.Last)
		reader, err := log.ReadRecords(h.ctx, 1)
		require.NoError(t, err)
		defer reader.Stop()
		for i, first := range firsts {
			r, err := reader.NextRecord(h.ctx)
			require.NoError(t, err)
			require.EqualValues(t, i+1, r.Seq)
			require.Equal(t, first, r.Batch.First, "record %d", r.Seq)
		}
	}
	requireRecords(1, 3, 3, 3, 3)
	stop()
	_, stop = h.start() // it recovers behind the last of them
	h.ask(send("c", "1"))
	h.ask(send("c", "4"))
	h.messages(4)
	requireRecords(1, 3, 3, 3, 3, 4, 4)
	stop()
	h.requireDerived()
}

func TestStatus(t *testing.T) {
	t.Parallel()
	h := setup(t)
	s, stop := h.start()
	<-s.Ready()
	h.ask(send("c", "1"))
	all, err := Status(h.ctx, h.js, h.deployment)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.NotEmpty(t, all[0].Owner)
	require.NotZero(t, all[0].Epoch)
	require.EqualValues(t, 1, all[0].WALLast)
	stop()
	all, err = Status(h.ctx, h.js, h.deployment)
	require.NoError(t, err)
	require.Empty(t, all[0].Owner)
	var b bytes.Buffer
	require.NoError(t, WriteStatus(&b, all))
	require.Contains(t, b.String(), "nobody")
}

// TestReadingAheadIsBounded: what nobody takes stays in the server, and the client drops nothing, as it would for want of a place.
func TestReadingAheadIsBounded(t *testing.T) {
	t.Parallel()
	h := setup(t)
	const records = 2000
	for n := range records {
		data, err := message.AppendSend(nil, send("c", strconv.Itoa(n)))
		require.NoError(t, err)
		_, err = h.js.PublishAsync(topology.WALSubject(0), data, jetstream.WithStallWait(time.Minute))
		require.NoError(t, err)
	}
	select {
	case <-h.js.PublishAsyncComplete():
	case <-h.ctx.Done():
		require.FailNow(t, "the log is not written")
	}
	dropped := make(chan error, records)
	h.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { dropped <- err })
	logs, err := openLogs(h.nc, h.nc, h.js, 0, false)
	require.NoError(t, err)
	came := h.nc.Stats().InMsgs
	reader, err := logs.ReadWAL(h.ctx, 1)
	require.NoError(t, err)
	defer reader.Stop()
	seq := uint64(0)
	read := func(last uint64) {
		for seq < last {
			record, err := reader.Next(h.ctx)
			require.NoError(t, err)
			require.Equal(t, seq+1, record.Seq)
			seq++
		}
	}
	const ahead = 100 // 64, and the server's answers
	for last := uint64(100); last <= records; last += 100 {
		read(last)
		require.NoError(t, h.nc.Flush())
		require.Less(t, h.nc.Stats().InMsgs-came, last+ahead)
	}
	require.Empty(t, dropped)
}

// TestAPartitionThatIsNotAdmitted is refused with what keeps it from being sequenced.
func TestAPartitionThatIsNotAdmitted(t *testing.T) {
	t.Parallel()
	h := setup(t)
	s := h.service()
	require.NoError(t, s.admit(h.ctx, 0))
	reason := errors.New("the table is ahead")
	s.deps.Admit = func(_ context.Context, partition int) error {
		require.Zero(t, partition)
		return reason
	}
	err := s.admit(h.ctx, 0)
	require.ErrorIs(t, err, reason)
	require.ErrorIs(t, err, runner.ErrRefused)
	require.NoError(t, h.js.DeleteStream(h.ctx, topology.WALStream(0)))
	err = s.admit(h.ctx, 0)
	require.ErrorIs(t, err, broker.ErrLost)
	require.ErrorIs(t, err, runner.ErrRefused)
	require.ErrorContains(t, err, "sendhouse repair wal --partition 0")
}
