package repair

import (
	"bytes"
	"strconv"
	"testing"

	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// harness adds what the tests of this package ask.
type harness struct{ *sequencertest.Harness }

func setup(t testing.TB) *harness {
	t.Helper()
	return &harness{sequencertest.Setup(t)}
}

// repair runs a repair of the harness's partition and returns what it printed.
func (h *harness) repair(do func(*repairing, *bytes.Buffer) error) (string, error) {
	h.T.Helper()
	r, err := newRepairing(h.Ctx, h.JS, h.Deployment, 0)
	require.NoError(h.T, err)
	var out bytes.Buffer
	err = do(r, &out)
	return out.String(), err
}

func (h *harness) repairMessageLog(yes bool) (string, error) {
	h.T.Helper()
	return h.repair(func(r *repairing, out *bytes.Buffer) error { return repairMessageLog(h.Ctx, r, out, yes) })
}

func (h *harness) repairWAL(yes bool) (string, error) {
	h.T.Helper()
	return h.repair(func(r *repairing, out *bytes.Buffer) error { return repairWAL(h.Ctx, r, out, yes) })
}

// keepWAL makes the write-ahead log again with only its first n records.
func (h *harness) keepWAL(n uint64) {
	h.T.Helper()
	stream, err := h.JS.Stream(h.Ctx, topology.WALStream(0))
	require.NoError(h.T, err)
	var kept []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= n; seq++ {
		m, err := stream.GetMsg(h.Ctx, seq)
		require.NoError(h.T, err)
		kept = append(kept, m)
	}
	require.NoError(h.T, h.JS.DeleteStream(h.Ctx, topology.WALStream(0)))
	h.Ensure()
	for _, m := range kept {
		_, err := h.JS.PublishMsg(h.Ctx, &nats.Msg{Subject: m.Subject, Data: m.Data, Header: m.Header})
		require.NoError(h.T, err)
	}
}

// requireSameAnswers asserts that retries are answered as the sends were, and that the next send gets the next number.
func (h *harness) requireSameAnswers(answers []*message.Answer) {
	h.T.Helper()
	_, stop := h.Start()
	defer stop()
	for i, want := range answers {
		got := h.Ask(sequencertest.Send("c", strconv.Itoa(i)))[0]
		require.Equal(h.T, message.Outcome_OUTCOME_DUPLICATE, got.GetOutcome(), "send %d", i)
		require.Equal(h.T, want.GetMessageId(), got.GetMessageId(), "send %d", i)
		require.Equal(h.T, want.GetMessageSeq(), got.GetMessageSeq(), "send %d", i)
	}
	next := h.Ask(sequencertest.Send("c", "next"))[0]
	require.EqualValues(h.T, len(answers)+1, next.GetMessageSeq())
	require.Greater(h.T, next.GetMessageId(), answers[len(answers)-1].GetMessageId())
	require.Len(h.T, h.Messages(uint64(len(answers)+1)), len(answers)+1)
}

func TestRepairStrayRecordInTheMessageLog(t *testing.T) {
	t.Parallel()
	h := setup(t)
	answers := h.Answered(20)
	out, err := h.repairMessageLog(true)
	require.NoError(t, err)
	require.Contains(t, out, "nothing to repair")

	for _, stray := range []string{"not ours", "neither is this"} {
		_, err = h.JS.Publish(h.Ctx, topology.MessagesSubject(0), []byte(stray))
		require.NoError(t, err)
	}
	out, err = h.repairMessageLog(false)
	require.ErrorIs(t, err, command.ErrNotConfirmed)
	require.Contains(t, out, "record 21 of the message log is wrong")
	_, err = h.JS.Stream(h.Ctx, "MESSAGES_0_CUT")
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)

	_, err = h.repairMessageLog(true)
	require.NoError(t, err)
	_, err = h.repairMessageLog(true)
	require.NoError(t, err, "it may be run again")
	h.requireSameAnswers(answers)
	h.RequireDerived()
}

// A record of the message log that was written once more is a batch of messages, so the write-ahead log seems to have lost one. Its
// repair knows better, and names the right one.
func TestRepairRepeatedRecordInTheMessageLog(t *testing.T) {
	t.Parallel()
	h := setup(t)
	answers := h.Answered(20)
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	old, err := stream.GetMsg(h.Ctx, 11)
	require.NoError(t, err)
	_, err = h.JS.Publish(h.Ctx, old.Subject, old.Data)
	require.NoError(t, err)
	refusal := h.Refuses()
	require.ErrorIs(t, refusal, runner.ErrMissing)
	require.ErrorContains(t, refusal, "sendhouse repair wal --partition 0")
	_, err = h.repairWAL(true)
	require.ErrorIs(t, err, ErrCannotRepair)
	require.ErrorContains(t, err, "sendhouse repair message-log --partition 0")
	_, err = h.repairMessageLog(true)
	require.NoError(t, err)
	h.requireSameAnswers(answers)
	h.RequireDerived()
}

func TestRepairWALThatLostItsTail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lose func(*harness)
		// messageLog is what the repair of the message log says, which would lose answers.
		messageLog string
	}{
		"ends early": {func(h *harness) { h.keepWAL(12) }, "use 'sendhouse repair wal --partition 0'"},
		"was continued by sends that got no answer": {func(h *harness) {
			h.keepWAL(12)
			for i := range 15 {
				h.Publish(sequencertest.Send("other", strconv.Itoa(i)))
			}
		}, "use 'sendhouse repair wal --partition 0'"},
		"is gone": {func(h *harness) {
			require.NoError(h.T, h.JS.DeleteStream(h.Ctx, topology.WALStream(0)))
		}, "use 'sendhouse repair wal --partition 0'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			answers := h.Answered(20)
			out, err := h.repairWAL(true)
			require.NoError(t, err)
			require.Contains(t, out, "nothing to repair")

			c.lose(h)
			_, err = h.repairMessageLog(true)
			require.ErrorIs(t, err, ErrCannotRepair)
			require.ErrorContains(t, err, c.messageLog)
			_, err = h.repairWAL(false)
			require.ErrorIs(t, err, command.ErrNotConfirmed)
			out, err = h.repairWAL(true)
			require.NoError(t, err)
			require.Contains(t, out, "A checkpoint is made at record 20")
			h.Ensure()
			_, err = h.repairWAL(true)
			require.NoError(t, err, "it may be run again")
			h.requireSameAnswers(answers)
		})
	}
}

// A write-ahead log that lacks a record is refused, and continued after what the message log has. Sends after it that were not answered stay
// if the message log has the missing one.
func TestRepairWALThatLacksARecord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		missing []uint64
		follow  int // sends that arrive after that
		checkpoint,
		keeps uint64 // records that stay
		unread bool // the message log lacks the missing record, too
	}{
		"last":                         {missing: []uint64{20}, checkpoint: 20},
		"last, then later ones":        {missing: []uint64{20}, follow: 3, checkpoint: 20, keeps: 3},
		"from the middle":              {missing: []uint64{9, 14}, checkpoint: 20},
		"from the middle, then others": {missing: []uint64{9, 14}, follow: 3, checkpoint: 20, keeps: 3},
		"after the message log":        {missing: []uint64{21}, follow: 3, unread: true, checkpoint: 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := setup(t)
			answers := h.Answered(20)
			lose := func() {
				wal, err := h.JS.Stream(h.Ctx, topology.WALStream(0))
				require.NoError(t, err)
				for _, seq := range c.missing {
					require.NoError(t, wal.DeleteMsg(h.Ctx, seq))
				}
			}
			if !c.unread {
				lose()
			}
			for i := range c.follow {
				h.Publish(sequencertest.Send("other", strconv.Itoa(i)))
			}
			if c.unread {
				lose()
			}
			refusal := h.Refuses()
			require.ErrorIs(t, refusal, runner.ErrMissing)
			require.ErrorContains(t, refusal, "record "+strconv.FormatUint(c.missing[0], 10)+" of the write-ahead log is missing")
			require.ErrorContains(t, refusal, "sendhouse repair wal --partition 0")

			_, err := h.repairWAL(false)
			require.ErrorIs(t, err, command.ErrNotConfirmed)
			out, err := h.repairWAL(true)
			require.NoError(t, err)
			require.Contains(t, out, "A checkpoint is made at record "+strconv.FormatUint(c.checkpoint, 10))
			out, err = h.repairWAL(true)
			require.NoError(t, err, "it may be run again")
			require.Contains(t, out, "nothing to repair")
			wal, err := h.JS.Stream(h.Ctx, topology.WALStream(0))
			require.NoError(t, err)
			require.Equal(t, c.keeps, wal.CachedInfo().State.Msgs)
			_, stop := h.Start()
			for i := range c.follow {
				got := h.Ask(sequencertest.Send("other", strconv.Itoa(i)))[0]
				require.EqualValues(t, i+1, got.GetMessageSeq())
				if c.keeps > 0 {
					require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, got.GetOutcome())
				}
			}
			for i, want := range answers {
				got := h.Ask(sequencertest.Send("c", strconv.Itoa(i)))[0]
				require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, got.GetOutcome(), "send %d", i)
				require.Equal(t, want.GetMessageId(), got.GetMessageId(), "send %d", i)
			}
			stop()
		})
	}
}

// A write-ahead log that was trimmed, and all of whose checkpoints are lost, is continued: what it holds beyond the message log stays.
func TestRepairWALWithoutACheckpoint(t *testing.T) {
	t.Parallel()
	h := setup(t)
	answers := h.Answered(20)
	wal, err := h.JS.Stream(h.Ctx, topology.WALStream(0))
	require.NoError(t, err)
	require.NoError(t, wal.Purge(h.Ctx, jetstream.WithPurgeSequence(13)))
	objects, err := h.JS.Stream(h.Ctx, "OBJ_"+topology.CheckpointBucket)
	require.NoError(t, err)
	require.NoError(t, objects.Purge(h.Ctx))
	require.ErrorIs(t, h.Refuses(), runner.ErrMissing)

	out, err := h.repairWAL(true)
	require.NoError(t, err)
	require.Contains(t, out, "A checkpoint is made at record 20 from the message log. Both logs stay")
	out, err = h.repairWAL(true)
	require.NoError(t, err, "it may be run again")
	require.Contains(t, out, "nothing to repair")
	info, err := wal.Info(h.Ctx)
	require.NoError(t, err)
	require.EqualValues(t, 13, info.State.FirstSeq)
	require.EqualValues(t, 20, info.State.LastSeq)
	h.requireSameAnswers(answers)
}
