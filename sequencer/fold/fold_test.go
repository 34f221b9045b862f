package fold_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

var start = message.Epoch().Add(1000 * time.Hour)

func params() fold.Params {
	return fold.Params{Partition: 3, DedupWindow: 10 * time.Second, DedupEntriesMax: 50}
}

func encode(t require.TestingT, sends ...*message.Send) []byte {
	var batch []byte
	for _, s := range sends {
		var err error
		batch, err = message.AppendSend(batch, s)
		require.NoError(t, err)
	}
	return batch
}

func newState(t require.TestingT, p fold.Params) *fold.State {
	s, err := fold.New(p)
	require.NoError(t, err)
	return s
}

func verdicts(effects []fold.Effect) []verdict {
	var vs []verdict
	for _, e := range effects {
		v := verdict{Outcome: e.Outcome, ID: e.Identity.ID, MessageSeq: e.Identity.Seq, PartitionSeq: e.PartitionSeq}
		if e.Outcome == message.Outcome_OUTCOME_ACCEPTED {
			v.Accepted = e.Identity.AcceptedAt()
		}
		vs = append(vs, v)
	}
	return vs
}

func drawSend(t *rapid.T) *message.Send {
	return &message.Send{
		ChannelId:   fmt.Sprintf("c%d", rapid.IntRange(0, 5).Draw(t, "channel")),
		ChannelType: rapid.SampledFrom([]uint32{1, 2, 13, 255}).Draw(t, "type"),
		FromUid:     rapid.SampledFrom([]string{"a", "b"}).Draw(t, "from"),
		ClientMsgNo: rapid.SampledFrom([]string{"", "1", "2", "3", "4", "5", "6", "7", "8"}).Draw(t, "client_msg_no"),
		NoPersist:   rapid.IntRange(0, 9).Draw(t, "no_persist") == 0,
		Payload:     []byte{byte(rapid.IntRange(0, 1).Draw(t, "payload"))},
	}
}

// drawTime draws the broker's time at a record: as a rule near to that of the one before it, and at times anything.
func drawTime(t *rapid.T, before time.Time) time.Time {
	switch rapid.IntRange(0, 11).Draw(t, "jump") {
	case 0:
		return start.Add(time.Duration(rapid.Int64Range(0, 60_000).Draw(t, "from start")) * time.Millisecond) // right again
	case 1:
		return before.Add(time.Duration(rapid.Int64Range(-400, 400).Draw(t, "days")) * 24 * time.Hour)
	case 2:
		return time.UnixMilli(rapid.SampledFrom([]int64{
			message.FollowedMilliMin - 1, message.FollowedMilliMin, message.Epoch().UnixMilli() - 1, message.FollowedMilliMax - 1, message.FollowedMilliMax,
			0, -62135596800000, 253402300799000, 4e12, -9e15, 9e15,
		}).Draw(t, "odd")).UTC()
	default:
		return before.Add(time.Duration(rapid.Int64Range(-100, 1_500).Draw(t, "step")) * time.Millisecond)
	}
}

// The fold yields what the reference yields, by each rule and over its change, however the clock jumps, over a full window,
// and still does when it is stored and read back at any record.
func TestFoldEqualsReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := params()
		p.DedupEntriesMax = rapid.IntRange(1, 20).Draw(t, "entries max")
		state, ref := newState(t, p), newReference(p)
		at := start
		newRule := rapid.Uint64Range(0, 60).Draw(t, "new rule at") // may be never
		var effects []fold.Effect
		for seq := uint64(1); seq <= uint64(rapid.IntRange(1, 60).Draw(t, "records")); seq++ {
			rule := message.RuleFrozen
			if seq >= newRule && (seq == newRule || rapid.IntRange(0, 9).Draw(t, "names its rule") > 0) {
				rule = message.RuleSteps
			}
			if at = drawTime(t, at); rule == message.RuleFrozen && ref.rule == rule && at.UnixMilli() > message.TimestampMilliMax {
				at = start // that rule has no more than 4,096 IDs then
			}
			sends := rapid.SliceOfN(rapid.Custom(drawSend), 0, 6).Draw(t, "sends")
			var err error
			effects, err = state.Fold(fold.Record{StreamSeq: seq, Time: at, Rule: rule, Data: encode(t, sends...)}, effects[:0])
			require.NoError(t, err)
			require.Equal(t, ref.fold(rule, at, sends), verdicts(effects))
			for i, e := range effects {
				require.Equal(t, e.PartitionSeq != 0, e.Outcome == message.Outcome_OUTCOME_ACCEPTED && !sends[i].GetNoPersist())
				require.Equal(t, e.Live(), e.Outcome == message.Outcome_OUTCOME_ACCEPTED && sends[i].GetNoPersist())
			}
			if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
				state = reread(t, state, p)
			}
			require.Equal(t, ref.output, state.PartitionSeq())
			require.Equal(t, seq, state.WALSeq())
		}
	})
}

func reread(t require.TestingT, s *fold.State, p fold.Params) *fold.State {
	var b bytes.Buffer
	n, err := s.Snapshot().WriteTo(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	back, err := fold.Read(&b, p)
	require.NoError(t, err)
	require.Equal(t, []int{s.Channels(), s.DedupEntries()}, []int{back.Channels(), back.DedupEntries()})
	return back
}

// Many channels and a window that turns over many times: the chunks, the arena's
// blocks and both indexes grow, and entries leave from the front.
func TestFoldLarge(t *testing.T) {
	t.Parallel()
	p := fold.Params{Partition: 1, DedupWindow: time.Hour, DedupEntriesMax: 9_000}
	state := newState(t, p)
	const channels, rounds = 30_000, 3
	seq := uint64(0)
	fold1 := func(sends ...*message.Send) []fold.Effect {
		seq++
		effects, err := state.Fold(fold.Record{StreamSeq: seq, Time: start, Data: encode(t, sends...)}, nil)
		require.NoError(t, err)
		return effects
	}
	send := func(channel, round int) *message.Send {
		return &message.Send{ChannelId: fmt.Sprintf("channel-%040d", channel), ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprintf("%d-%d", channel, round), Payload: []byte("p")}
	}
	for round := 1; round <= rounds; round++ {
		for c := range channels {
			e := fold1(send(c, round))[0]
			require.EqualValues(t, round, e.Identity.Seq)
			require.Equal(t, message.Outcome_OUTCOME_ACCEPTED, e.Outcome)
		}
		state = reread(t, state, p)
		require.Equal(t, channels, state.Channels())
		require.Equal(t, p.DedupEntriesMax, state.DedupEntries())
	}
	// Of the last round the window holds the end. Asked from the start, each send is
	// new and pushes out the oldest that is remembered, so all of them are new.
	for c := range channels {
		require.Equal(t, message.Outcome_OUTCOME_ACCEPTED, fold1(send(c, rounds))[0].Outcome)
	}
	for c := channels - 1; c >= channels-p.DedupEntriesMax; c-- {
		require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, fold1(send(c, rounds))[0].Outcome)
	}
	require.EqualValues(t, channels*(rounds+1), state.PartitionSeq())
}

func TestSnapshotIsOfItsMoment(t *testing.T) {
	t.Parallel()
	p := params()
	state := newState(t, p)
	record := func(seq uint64, no string) fold.Record {
		return fold.Record{StreamSeq: seq, Time: start, Data: encode(t, &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: no, Payload: []byte("p")})}
	}
	for seq := uint64(1); seq <= 10; seq++ {
		_, err := state.Fold(record(seq, fmt.Sprint(seq)), nil)
		require.NoError(t, err)
	}
	snapshot := state.Snapshot()
	for seq := uint64(11); seq <= 200; seq++ {
		_, err := state.Fold(record(seq, fmt.Sprint(seq)), nil)
		require.NoError(t, err)
	}
	var b bytes.Buffer
	_, err := snapshot.WriteTo(&b)
	require.NoError(t, err)
	back, err := fold.Read(&b, p)
	require.NoError(t, err)
	require.EqualValues(t, 10, back.WALSeq())
	require.EqualValues(t, 10, back.PartitionSeq())
	effects, err := back.Fold(record(11, "10"), nil)
	require.NoError(t, err)
	require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, effects[0].Outcome)
	effects, err = back.Fold(record(12, "11"), nil)
	require.NoError(t, err)
	require.EqualValues(t, 11, effects[0].Identity.Seq)
}

func TestFoldRefusesARecordOutOfTurn(t *testing.T) {
	t.Parallel()
	state := newState(t, params())
	for _, seq := range []uint64{0, 2, 3} {
		_, err := state.Fold(fold.Record{StreamSeq: seq, Time: start}, nil)
		require.ErrorIs(t, err, fold.ErrNotNext)
		require.Zero(t, state.WALSeq())
	}
}

func TestMalformedRecordHasNoEffect(t *testing.T) {
	t.Parallel()
	good := &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: "1", Payload: []byte("p")}
	for name, data := range map[string][]byte{
		"garbage":              []byte("\xff\xff\xff"),
		"second send cut":      append(encode(t, good), 0x0a, 0x7f, 0x01),
		"no channel":           encode(t, good, &message.Send{ChannelType: 2}),
		"no channel type":      encode(t, good, &message.Send{ChannelId: "c"}),
		"unknown channel type": encode(t, good, &message.Send{ChannelId: "c", ChannelType: 256}),
	} {
		state := newState(t, params())
		effects, err := state.Fold(fold.Record{StreamSeq: 1, Time: start, Data: data}, nil)
		require.ErrorIs(t, err, fold.ErrMalformed, name)
		require.Empty(t, effects, name)
		require.EqualValues(t, 1, state.WALSeq(), "the record counts as folded")
		require.Zero(t, state.PartitionSeq(), name)

		effects, err = state.Fold(fold.Record{StreamSeq: 2, Time: start, Data: encode(t, good)}, nil)
		require.NoError(t, err)
		require.EqualValues(t, 1, effects[0].Identity.Seq)
		require.Equal(t, message.Outcome_OUTCOME_ACCEPTED, effects[0].Outcome)
	}
}

// snapshotOfOne is a snapshot of a state with one send.
func snapshotOfOne(t *testing.T) []byte {
	t.Helper()
	state := newState(t, params())
	_, err := state.Fold(fold.Record{StreamSeq: 1, Time: start, Data: encode(t, &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: "1"})}, nil)
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = state.Snapshot().WriteTo(&b)
	require.NoError(t, err)
	return b.Bytes()
}

func TestReadRefusesDamage(t *testing.T) {
	t.Parallel()
	whole := snapshotOfOne(t)
	for n := range len(whole) {
		_, err := fold.Read(bytes.NewReader(whole[:n]), params())
		require.ErrorIs(t, err, fold.ErrSnapshot, "cut at %d", n)
	}
	_, err := fold.Read(bytes.NewReader(append(bytes.Clone(whole), 0)), params())
	require.ErrorIs(t, err, fold.ErrSnapshot)
	other := params()
	other.DedupWindow++
	_, err = fold.Read(bytes.NewReader(whole), other)
	require.ErrorIs(t, err, fold.ErrSnapshot)
}

// A reader that fails says nothing of the bytes that it did not give.
func TestReadTellsAFailingReaderFromDamage(t *testing.T) {
	t.Parallel()
	whole := snapshotOfOne(t)
	broken := errors.New("no answer")
	for n := range len(whole) + 1 {
		_, err := fold.Read(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken)), params())
		require.ErrorIs(t, err, broken, "after %d", n)
		require.NotErrorIs(t, err, fold.ErrSnapshot, "after %d", n)
		_, err = fold.Read(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(io.ErrUnexpectedEOF)), params())
		require.ErrorIs(t, err, fold.ErrSnapshot, "after %d", n)
	}
}

func FuzzFold(f *testing.F) {
	f.Add(encode(f, &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: "1", Payload: []byte("p")}))
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := newState(t, params()), newState(t, params())
		for seq := uint64(1); seq <= 2; seq++ {
			r := fold.Record{StreamSeq: seq, Time: start, Data: data}
			ea, errA := a.Fold(r, nil)
			eb, errB := b.Fold(r, nil)
			require.Equal(t, verdicts(ea), verdicts(eb))
			require.Equal(t, errors.Is(errA, fold.ErrMalformed), errors.Is(errB, fold.ErrMalformed))
		}
	})
}

// FuzzRead: no bytes make Read panic or take more memory than they are worth.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	_, err := newState(f, params()).Snapshot().WriteTo(&b)
	require.NoError(f, err)
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = fold.Read(bytes.NewReader(data), params())
	})
}

// What Remembers promises still holds after half of the window's entries have come.
func TestRemembers(t *testing.T) {
	t.Parallel()
	state, seq := newState(t, params()), uint64(0) // 50 entries, 10 seconds
	var effects []fold.Effect
	at := start
	send := func(i int) message.Outcome {
		seq++
		var err error
		one := &message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: strconv.Itoa(i), Payload: []byte("x")}
		effects, err = state.Fold(fold.Record{StreamSeq: seq, Time: at, Rule: message.RuleSteps, Data: encode(t, one)}, effects[:0])
		require.NoError(t, err)
		return effects[0].Outcome
	}
	require.Equal(t, 10*time.Second, state.Remembers(), "nothing has been forgotten")
	for i := range 40 {
		at = at.Add(100 * time.Millisecond)
		send(i)
		if i < 24 {
			require.Equal(t, 10*time.Second, state.Remembers(), "send %d", i)
		}
	}
	require.Equal(t, 2400*time.Millisecond, state.Remembers(), "24 have followed that one")
	for i := range 25 {
		send(100 + i)
	}
	require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, send(15), "it was 2.4 s old")
	require.Equal(t, message.Outcome_OUTCOME_ACCEPTED, send(14), "it was older")
	require.LessOrEqual(t, state.Remembers(), time.Millisecond, "many have come at once")
}
