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
	lastTime int64 // milliseconds since message.Epoch of the last ID
	counter  int
	started  bool
	now      time.Time
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
}

type verdict struct {
	Outcome message.Outcome
	ID      message.ID
	Seq     uint64
	Output  uint64
}

func newReference(params fold.Params) *reference {
	return &reference{params: params, seqs: map[string]uint64{}}
}

func (r *reference) fold(at time.Time, sends []*message.Send) []verdict {
	if at = at.Truncate(time.Millisecond); at.After(r.now) {
		r.now = at
	}
	var kept []remembered
	for _, m := range r.window {
		if !m.id.Time().Before(r.now.Add(-r.params.DedupWindow)) {
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

func (r *reference) apply(s *message.Send) verdict {
	for _, m := range r.window {
		if s.GetClientMsgNo() != "" && m.channel == s.GetChannelId() && m.channelType == s.GetChannelType() && m.from == s.GetFromUid() && m.clientMsgNo == s.GetClientMsgNo() {
			v := verdict{Outcome: message.Outcome_OUTCOME_DUPLICATE, ID: m.id, Seq: m.seq}
			if !proto.Equal(m.send, s) {
				v.Outcome = message.Outcome_OUTCOME_CONFLICT
			}
			return v
		}
	}
	v := verdict{ID: r.nextID()}
	if !s.GetNoPersist() {
		key := string(rune(s.GetChannelType())) + s.GetChannelId()
		r.seqs[key]++
		r.output++
		v.Seq, v.Output = r.seqs[key], r.output
	}
	if s.GetClientMsgNo() != "" {
		if len(r.window) == r.params.DedupEntriesMax {
			r.window = r.window[1:]
		}
		r.window = append(r.window, remembered{s.GetChannelId(), s.GetFromUid(), s.GetClientMsgNo(), s.GetChannelType(), s, v.ID, v.Seq})
	}
	return v
}

func (r *reference) nextID() message.ID {
	ms := max(r.now.Sub(message.Epoch()).Milliseconds(), 0)
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
