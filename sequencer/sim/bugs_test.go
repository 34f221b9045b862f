package sim

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// bugRunsMax is the number of runs in which each deliberate bug must be caught,
// from the first seed on. Most need one run; the rarest show in one of two hundred.
const (
	bugRunsMax   = 1000
	bugSeedFirst = 1
)

// Each of these mistakes is caught. What the simulation cannot find it does not
// guard against, so a new rule of the sequencer deserves a line here.
func TestDeliberateBugsAreCaught(t *testing.T) {
	t.Parallel()
	for name, b := range deliberateBugs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics := runner.NewMetrics(prometheus.NewRegistry()).Partition(0)
			for seed := uint64(bugSeedFirst); seed < bugSeedFirst+bugRunsMax; seed++ {
				_, err := run(Options{Seed: seed, Metrics: metrics}, b)
				var broken *RuleError
				if errors.As(err, &broken) {
					t.Logf("caught in run %d: %s", seed-bugSeedFirst+1, broken.Reason[:min(200, len(broken.Reason))])
					return
				}
			}
			require.Fail(t, "not caught")
		})
	}
}

func deliberateBugs() map[string]bug {
	return map[string]bug{
		"the fold takes the time from the wall clock": reading(func(o *owner, r runner.Record, _ uint64) runner.Record {
			r.Time = o.now()
			return r
		}),
		"the fold goes through a map": reading(shuffled),
		"a gap in reading is passed over": reading(func(_ *owner, r runner.Record, want uint64) runner.Record {
			r.StreamSeq = max(want, min(r.StreamSeq, want))
			return r
		}),
		"the window is not in the checkpoint": loading(func(s *snapshotBytes, _ fold.Params) { s.window = nil }),
		"the ID clock is not in the checkpoint, and goes back with the broker's": loading(func(s *snapshotBytes, _ fold.Params) {
			s.head[lastIDWord], s.head[ageMilliWord] = 0, 0
		}),
		"the broker's last time is not in the checkpoint": loading(func(s *snapshotBytes, _ fold.Params) {
			if s.steps() {
				s.head[brokerMilliWord] = 0
			}
		}),
		"the window's clock is set to the broker's by a recovery": loading(func(s *snapshotBytes, _ fold.Params) {
			if s.steps() {
				s.head[ageMilliWord] = s.head[brokerMilliWord]
			}
		}),
		"a recovery makes the window's entries new": loading(func(s *snapshotBytes, _ fold.Params) {
			for _, entry := range s.window {
				if s.steps() {
					binary.LittleEndian.PutUint64(entry[ageOffset:], s.head[ageMilliWord])
				}
			}
		}),
		"a recovery goes back to the rule for a clock that never steps": loading(func(s *snapshotBytes, _ fold.Params) {
			if s.steps() {
				s.head = append([]uint64{message.RuleFrozen}, s.head[1:headWords]...)
				for i, entry := range s.window {
					s.window[i] = entry[:ageOffset]
				}
			}
		}),
		"the fold's version and not the log decides which rule for time holds": reading(func(_ *owner, r runner.Record, _ uint64) runner.Record {
			r.Rule = message.RuleNewest
			return r
		}),
		"a clock that steps back is not followed": reading(func(o *owner, r runner.Record, _ uint64) runner.Record {
			for _, before := range o.w.wal.records[:r.StreamSeq-1] {
				if sane(before.Time) && before.Time.After(r.Time) {
					r.Time = before.Time
				}
			}
			return r
		}),
		"IDs follow any time that they can hold": reading(func(_ *owner, r runner.Record, _ uint64) runner.Record {
			if !sane(r.Time) && r.Time.After(start()) {
				r.Time = time.UnixMilli(message.FollowedMilliMax - 1)
			}
			return r
		}),
		"a time before 2020 is believed": reading(func(_ *owner, r runner.Record, _ uint64) runner.Record {
			if !sane(r.Time) && r.Time.Before(start()) {
				r.Time = time.UnixMilli(message.FollowedMilliMin)
			}
			return r
		}),
		"a record of a time that steps is passed over by the clock": reading(func(o *owner, r runner.Record, _ uint64) runner.Record {
			if r.StreamSeq > 1 && r.Time.Sub(o.w.wal.records[r.StreamSeq-2].Time).Abs() > time.Hour {
				r.Time = time.Unix(0, 0)
			}
			return r
		}),
		"after recovery one entry fewer fits into the window": loading(func(s *snapshotBytes, p fold.Params) {
			if len(s.window) == p.DedupEntriesMax {
				s.window = s.window[1:]
			}
		}),
		"a checkpoint is stored before the message log has its messages": {storeEarly: true, store: storeUnseen},
		"the pointer is moved before the checkpoint is whole":            {pointerFirst: true},
		"the pointer is moved though another has moved it":               {moveAnyway: true},
		"what a later owner has stored is swept away":                    {sweepLater: true},
		"each checkpoint is written over the one before":                 {oneObject: true},
		"a lease ends by the broker's clock":                             {leaseByBroker: true},
		"a checkpoint's age is judged by its date":                       {due: dueByDate, store: storeByDate},
		"a recovery makes no claim":                                      {checkpoints: func(o *owner, c runner.Checkpoints) runner.Checkpoints { return &modestCheckpoints{c, o} }},
		"a full write-ahead log waits for something new":                 {due: dueOnlyForNew},
		"the horizon is a tenth of what it should be": {now: func(o *owner) func() time.Time {
			return func() time.Time { return start().Add(10 * o.w.now) }
		}},
		"the write-ahead log is trimmed up to the newest checkpoint":       {logs: wrap(func(l *faultyLogs) { l.trimNewest = true })},
		"after a refusal sending resumes from what was sent":               {logs: wrap(func(l *faultyLogs) { l.blindTail = true })},
		"the message log's last sequence is trusted":                       {logs: wrap(func(l *faultyLogs) { l.trustLast = true })},
		"an acknowledgement is taken for the newest chunk's":               {logs: wrap(func(l *faultyLogs) { l.anyAck = true })},
		"one message too many is suppressed after recovery":                {logs: wrap(func(l *faultyLogs) { l.tailOff = 1 })},
		"a record without messages is left out":                            {logs: wrap(func(l *faultyLogs) { l.skipEmpty = true })},
		"a record names the ID of its last message as the newest":          {logs: wrap(func(l *faultyLogs) { l.ownNewest = true })},
		"a record is counted by its own messages alone":                    {logs: wrap(func(l *faultyLogs) { l.ownFirst = true })},
		"messages are appended without the expected sequence":              {logs: wrap(func(l *faultyLogs) { l.noExpected = true })},
		"an owner that has lost its lease answers from a state of its own": {logs: wrap(func(l *faultyLogs) { l.zombieAnswers = true })},
		"a live message is stored too":                                     {logs: wrap(func(l *faultyLogs) { l.storeLive = true })},
		"a stored message is published live too":                           {logs: wrap(func(l *faultyLogs) { l.liveStored = true })},
		"a checkpoint past the message log's tail is recovered from": {checkpoints: func(o *owner, c runner.Checkpoints) runner.Checkpoints {
			return &boldCheckpoints{Checkpoints: c, w: o.w}
		}},
		"a checkpoint is read without its checksum and a flipped bit believed": {checkpoints: func(o *owner, c runner.Checkpoints) runner.Checkpoints { return &trustingCheckpoints{c, o.w} }},
	}
}
