package fold_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

const year = 365 * 24 * time.Hour

// stepping folds one send a record.
type stepping struct {
	t     require.TestingT
	state *fold.State
	seq   uint64
	rule  int
	last  message.ID
}

func newStepping(t require.TestingT, window time.Duration) *stepping {
	return &stepping{t: t, state: newState(t, fold.Params{Partition: 3, DedupWindow: window, DedupEntriesMax: 1_000_000}), rule: message.RuleSteps}
}

func (s *stepping) send(at time.Time, clientMsgNo string) fold.Effect {
	s.seq++
	data := encode(s.t, &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: clientMsgNo})
	effects, err := s.state.Fold(fold.Record{StreamSeq: s.seq, Time: at, Rule: s.rule, Data: data}, nil)
	require.NoError(s.t, err)
	if e := effects[0]; e.Outcome == message.Outcome_OUTCOME_ACCEPTED {
		require.Greater(s.t, e.Identity.ID, s.last)
		s.last = e.Identity.ID
	}
	return effects[0]
}

// A clock that is wrong for one record and then right again changes that record's timestamp, and nothing of the later ones'.
func TestTimestampIsTheBrokers(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]time.Duration{"two hours behind": -2 * time.Hour, "400 days ahead": 400 * 24 * time.Hour, "two years behind, before IDs begin": -2 * year} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStepping(t, time.Minute)
			require.Equal(t, start, s.send(start, "1").Identity.AcceptedAt())
			require.Equal(t, start.Add(wrong), s.send(start.Add(wrong), "2").Identity.AcceptedAt())
			for n := range 10 {
				at := start.Add(time.Duration(n+1) * time.Second)
				require.Equal(t, at, s.send(at, fmt.Sprint("after ", n)).Identity.AcceptedAt())
			}
		})
	}
}

// A time that no clock of ours can be right with counts as that of the record before it, and moves no ID by more than one.
func TestAbsurdTimes(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{
		time.UnixMilli(message.FollowedMilliMax), time.UnixMilli(message.TimestampMilliMax + 1), time.Unix(0, math.MaxInt64), time.Unix(0, math.MinInt64),
		time.UnixMilli(message.FollowedMilliMin - 1), time.Unix(0, 0), {},
	} {
		s := newStepping(t, time.Minute)
		require.Equal(t, message.Epoch(), s.send(at, "first of all").Identity.AcceptedAt())
		first := s.send(start, "1")
		second := s.send(at, "2")
		require.Equal(t, first.Identity.ID+1, second.Identity.ID)
		require.Equal(t, start, second.Identity.AcceptedAt())
		require.Equal(t, message.MakeID(1+start.Sub(message.Epoch()).Milliseconds(), 3, 0), s.send(start.Add(time.Millisecond), "3").Identity.ID)
	}
}

// From the latest time that is followed on, IDs last: a million a second for 35 years.
func TestIDsDoNotRunOut(t *testing.T) {
	t.Parallel()
	clock, err := message.NewIDClock(3, 0)
	require.NoError(t, err)
	clock.Next(message.FollowedMilliMax - 1)
	require.Greater(t, clock.Left(0), int64(35*year/time.Second)*1_000_000)

	s := newStepping(t, time.Minute)
	s.send(time.UnixMilli(message.FollowedMilliMax-1), "far")
	for n := range 10_000 { // more than a millisecond has
		s.send(start.Add(time.Duration(n)*time.Second), fmt.Sprint(n))
	}
	require.LessOrEqual(t, s.last.UnixMilli(), int64(message.FollowedMilliMax+1))
}

// The old rule followed any time, and gave 4,096 more IDs after the last millisecond. Their end is an error and no panic, by either rule.
func TestIDsOfTheOldRuleRunOut(t *testing.T) {
	t.Parallel()
	for _, rule := range []int{0, message.RuleFrozen, message.RuleSteps} {
		s := newStepping(t, time.Minute)
		s.rule = 0
		s.send(time.Unix(0, math.MaxInt64), "far")
		s.rule = rule
		for n := range 4095 {
			s.send(start, fmt.Sprint(n))
		}
		data := encode(t, &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: "last"})
		_, err := s.state.Fold(fold.Record{StreamSeq: s.seq + 1, Time: start, Rule: rule, Data: data}, nil)
		require.ErrorIs(t, err, fold.ErrIDsUsedUp)
	}
}

// A send is known again for a whole window, however far the clock is put forward, for as long as it is not more than ten
// times; and is forgotten after it, whatever the clock does.
func TestWindowOverSteps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const window = 10 * time.Minute
		s := newStepping(t, window)
		s.send(start, "x")
		off, steps, elapsed := time.Duration(0), 0, time.Duration(0)
		for n := 0; elapsed < 2*window; n++ {
			elapsed += time.Duration(rapid.Int64Range(0, window.Milliseconds()/100).Draw(t, "elapsed")+1) * time.Millisecond
			if rapid.IntRange(0, 9).Draw(t, "step") == 0 && steps < 10 {
				by := time.Duration(rapid.Int64Range(0, 400*24*3600).Draw(t, "by")) * time.Second
				if off > 0 && rapid.Bool().Draw(t, "back") {
					by = -off
				}
				off, steps = off+by, steps+max(0, min(1, int(by)))
			}
			at := start.Add(elapsed + off)
			if elapsed > window {
				s.send(at, fmt.Sprint(n))
				continue
			}
			require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, s.send(at, "x").Outcome, "after %s and %d steps", elapsed, steps)
		}
		require.Equal(t, message.Outcome_OUTCOME_ACCEPTED, s.send(start.Add(elapsed+off), "x").Outcome)
	})
}

// Of a clock that does not step, both rules make the same messages, unless senders pause for longer than a hundredth of the window.
func TestRulesAgreeOnAnEvenClock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := fold.Params{Partition: 3, DedupWindow: time.Hour, DedupEntriesMax: 20}
		old, changed := newState(t, p), newState(t, p)
		at := start
		for seq := uint64(1); seq <= uint64(rapid.IntRange(1, 40).Draw(t, "records")); seq++ {
			at = at.Add(time.Duration(rapid.Int64Range(0, 36_000).Draw(t, "step")) * time.Millisecond)
			data := encode(t, rapid.SliceOfN(rapid.Custom(drawSend), 0, 6).Draw(t, "sends")...)
			want, err := old.Fold(fold.Record{StreamSeq: seq, Time: at, Data: data}, nil)
			require.NoError(t, err)
			got, err := changed.Fold(fold.Record{StreamSeq: seq, Time: at, Rule: message.RuleSteps, Data: data}, nil)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}

// A partition keeps to a rule: records of an ingest that is older than another do not bring the old one back.
func TestRuleStays(t *testing.T) {
	t.Parallel()
	s := newStepping(t, time.Minute)
	s.send(start, "1")
	s.rule = 0
	s.state = reread(t, s.state, fold.Params{Partition: 3, DedupWindow: time.Minute, DedupEntriesMax: 1_000_000})
	require.Equal(t, start.Add(-time.Hour), s.send(start.Add(-time.Hour), "2").Identity.AcceptedAt())

	_, err := s.state.Fold(fold.Record{StreamSeq: s.seq + 1, Time: start, Rule: message.RuleNewest + 1}, nil)
	require.ErrorIs(t, err, fold.ErrRule)
	require.Equal(t, s.seq, s.state.WALSeq())
}
