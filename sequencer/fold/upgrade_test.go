package fold_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// formerRecord is a record of the write-ahead log of a version before RuleSteps, and what that version made of it. In
// testdata/frozen.json the clock steps back, 400 days ahead, to before the first ID and past the last, each time for a record or two.
type formerRecord struct {
	UnixNano             int64
	Data, Answers, Batch []byte
	Checkpoint           []byte // after it; of every tenth
}

// What an earlier version has answered stays: its log becomes the same, from the start and from each of its checkpoints, also if it
// continues by the newest rule.
func TestFormerLogBecomesTheSame(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/frozen.json")
	require.NoError(t, err)
	var records []formerRecord
	require.NoError(t, json.Unmarshal(text, &records))
	require.Len(t, records, 80)

	states := []*fold.State{newState(t, params())}
	for i, r := range records {
		for n, state := range states {
			effects, err := state.Fold(fold.Record{StreamSeq: uint64(i + 1), Time: time.Unix(0, r.UnixNano), Data: r.Data}, nil)
			require.NoError(t, err)
			var answers []byte
			for _, e := range effects {
				answers = message.AppendAnswer(answers, e.Identity.ID, e.Identity.Seq, e.Outcome)
			}
			require.Equal(t, r.Answers, answers, "record %d, state %d", i+1, n)
			batch, _ := runner.Derive(nil, state, effects)
			require.Equal(t, r.Batch, batch, "record %d, state %d", i+1, n)
		}
		if r.Checkpoint == nil {
			continue
		}
		var b bytes.Buffer
		_, err := states[0].Snapshot().WriteTo(&b)
		require.NoError(t, err)
		require.Equal(t, r.Checkpoint, b.Bytes(), "an earlier version could continue")
		state, err := fold.Read(bytes.NewReader(r.Checkpoint), params())
		require.NoError(t, err)
		states = append(states, state)
	}

	// From here on by the newest rule. IDs continue after those of the step, and time is right again.
	last, at := states[0].LastID(), time.Unix(0, records[len(records)-1].UnixNano).Add(time.Second).UTC().Truncate(time.Millisecond)
	data := encode(t, &message.Send{ChannelId: "c1", ChannelType: 2, FromUid: "u", ClientMsgNo: "new"})
	for _, state := range states {
		effects, err := state.Fold(fold.Record{StreamSeq: uint64(len(records) + 1), Time: at, Rule: message.RuleNewest, Data: data}, nil)
		require.NoError(t, err)
		require.Equal(t, last+1, effects[0].Identity.ID)
		require.Equal(t, at, effects[0].Identity.AcceptedAt())
	}
}
