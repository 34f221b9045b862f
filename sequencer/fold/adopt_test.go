package fold_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// TestAdoptedStateAnswersAlike: a state that has adopted what some records became answers later ones as one that has folded
// them does.
func TestAdoptedStateAnswersAlike(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := params()
		p.DedupWindow = time.Hour // that the WAL time is not known exactly does not matter
		p.DedupEntriesMax = rapid.IntRange(1, 20).Draw(t, "entries max")
		folded, adopted := newState(t, p), newState(t, p)
		rule := rapid.IntRange(message.RuleFrozen, message.RuleSteps).Draw(t, "rule")
		at := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
		back := int64(-500)
		if rule == message.RuleFrozen {
			back = 0 // a record without messages does not tell the time at which this rule would stay
		}
		for seq := uint64(1); seq <= uint64(rapid.IntRange(1, 40).Draw(t, "records")); seq++ {
			at = at.Add(time.Duration(rapid.Int64Range(back, 6_000).Draw(t, "step")) * time.Millisecond)
			sends := rapid.SliceOfN(rapid.Custom(drawSend), 0, 6).Draw(t, "sends")
			for _, s := range sends {
				s.NoPersist = false
			}
			record := fold.Record{StreamSeq: seq, Time: at, Rule: rule, Data: encode(t, sends...)}
			want, err := folded.Fold(record, nil)
			require.NoError(t, err)
			if rapid.Bool().Draw(t, "adopt") {
				data, _ := runner.Derive(nil, folded, want)
				var batch message.BatchView
				require.NoError(t, message.ViewBatch(data, &batch))
				require.NoError(t, adopted.Adopt(seq, &batch))
			} else {
				got, err := adopted.Fold(record, nil)
				require.NoError(t, err)
				require.Equal(t, verdicts(want), verdicts(got))
			}
			require.Equal(t, folded.PartitionSeq(), adopted.PartitionSeq())
			require.Equal(t, folded.LastID(), adopted.LastID())
			require.Equal(t, folded.Channels(), adopted.Channels())
		}
	})
}

func TestAdoptRefusesWhatDoesNotFollow(t *testing.T) {
	t.Parallel()
	state := newState(t, params())
	effects, err := state.Fold(fold.Record{StreamSeq: 1, Time: message.Epoch().Add(time.Hour), Data: encode(t, &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: "1"})}, nil)
	require.NoError(t, err)
	data, _ := runner.Derive(nil, state, effects)
	var batch message.BatchView
	require.NoError(t, message.ViewBatch(data, &batch))

	require.ErrorIs(t, newState(t, params()).Adopt(2, &batch), fold.ErrNotFollowing, "another record")
	require.ErrorIs(t, state.Adopt(2, &batch), fold.ErrNotFollowing, "a message that was made already")
	other := batch
	other.Messages = [][]byte{data}
	require.Error(t, newState(t, params()).Adopt(1, &other))
	gap := batch
	gap.First = 2
	require.ErrorIs(t, newState(t, params()).Adopt(1, &gap), fold.ErrNotFollowing)
	require.NoError(t, newState(t, params()).Adopt(1, &batch))
}
