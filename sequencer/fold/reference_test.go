package fold_test

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// reference is the fold written for the reader: maps, slices and the rules of
// docs/architecture.md, with nothing done for speed.
type reference struct {
	params   fold.Params
	rule     int
	lastTime int64 // milliseconds since message.Epoch of the last ID
	counter  int
	started  bool
	now      time.Time     // by RuleFrozen the latest time so far, by RuleSteps the last one
	age      time.Duration // by RuleSteps, of the partition
	output   uint64
	seqs     map[string]uint64
	window   []remembered
}

type remembered struct {
	channel, from, clientMsgNo string
	channelType                uint32
	send                       *message.Send
	id                         message.ID
	seq                        uint64
	age                        time.Duration // of the partition when it came
}

type verdict struct {
	Outcome      message.Outcome
	ID           message.ID
	MessageSeq   uint64
	PartitionSeq uint64
	Accepted     time.Time // of what was accepted
}

func newReference(params fold.Params) *reference {
	return &reference{params: params, rule: message.RuleFrozen, seqs: map[string]uint64{}}
}

func (r *reference) fold(rule int, at time.Time, sends []*message.Send) []verdict {
	at = at.Truncate(time.Millisecond)
	if rule == message.RuleSteps && r.rule == message.RuleFrozen {
		r.change()
	}
	switch {
	case r.rule == message.RuleFrozen:
		if at.After(r.now) {
			r.now = at
		}
	case at.Year() < 2020 || at.Year() > 2084: // no clock that is right
	default:
		if !r.now.IsZero() && at.After(r.now) {
			r.age += min(at.Sub(r.now), r.params.DedupWindow/100)
		}
		r.now = at
	}
	var kept []remembered
	for _, m := range r.window {
		if !r.forgotten(m) {
			kept = append(kept, m)
		}
	}
	r.window = kept
	var verdicts []verdict
	for _, s := range sends {
		verdicts = append(verdicts, r.apply(s))
	}
	return verdicts
}

// change begins RuleSteps. What the window has gets the age that it has by RuleFrozen.
func (r *reference) change() {
	r.rule = message.RuleSteps
	for i, m := range r.window {
		r.window[i].age = -r.now.Sub(m.id.Time())
	}
	if year := r.now.Year(); year < 2020 || year > 2084 {
		r.now = time.Time{}
	}
}

func (r *reference) forgotten(m remembered) bool {
	if r.rule == message.RuleFrozen {
		return m.id.Time().Before(r.now.Add(-r.params.DedupWindow))
	}
	return r.age-m.age > r.params.DedupWindow+10*(r.params.DedupWindow/100)
}

func (r *reference) apply(s *message.Send) verdict {
	for _, m := range r.window {
		if s.GetClientMsgNo() != "" && m.channel == s.GetChannelId() && m.channelType == s.GetChannelType() && m.from == s.GetFromUid() && m.clientMsgNo == s.GetClientMsgNo() {
			v := verdict{Outcome: message.Outcome_OUTCOME_DUPLICATE, ID: m.id, MessageSeq: m.seq}
			if !proto.Equal(m.send, s) {
				v.Outcome = message.Outcome_OUTCOME_CONFLICT
			}
			return v
		}
	}
	v := verdict{ID: r.nextID()}
	v.Accepted = v.ID.Time()
	if r.rule == message.RuleSteps && !r.now.IsZero() {
		v.Accepted = r.now
	}
	if !s.GetNoPersist() {
		key := string(rune(s.GetChannelType())) + s.GetChannelId()
		r.seqs[key]++
		r.output++
		v.MessageSeq, v.PartitionSeq = r.seqs[key], r.output
	}
	if s.GetClientMsgNo() != "" {
		if len(r.window) == r.params.DedupEntriesMax {
			r.window = r.window[1:]
		}
		r.window = append(r.window, remembered{s.GetChannelId(), s.GetFromUid(), s.GetClientMsgNo(), s.GetChannelType(), s, v.ID, v.MessageSeq, r.age})
	}
	return v
}

func (r *reference) nextID() message.ID {
	ms := int64(0)
	if r.now.After(message.Epoch()) {
		ms = r.now.UnixMilli() - message.Epoch().UnixMilli()
	}
	switch {
	case !r.started || ms > r.lastTime:
		r.lastTime, r.counter = ms, 0
	case r.counter == 4095:
		r.lastTime, r.counter = r.lastTime+1, 0
	default:
		r.counter++
	}
	r.started = true
	return message.MakeID(r.lastTime, r.params.Partition, r.counter)
}
