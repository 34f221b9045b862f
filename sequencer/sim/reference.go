package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// reference is the fold as docs/architecture.md tells it, with maps and slices
// and nothing done for speed. It shares no code with package fold; it builds IDs
// by hand and encodes messages with the generated code.
type reference struct {
	params  fold.Params
	steps   bool  // message.RuleSteps holds
	now     int64 // the broker's time; before RuleSteps the latest so far. Unix milliseconds
	age     int64 // of the window, milliseconds; before RuleSteps it is now
	idTime  int64 // of the last ID
	idCount int64
	seqs    map[refChannel]uint64
	window  []refSend
	newest  int64       // the last ID
	output  uint64      // messages, of all records
	records []refRecord // record n is at n-1
}

type refChannel struct {
	kind uint32
	name string
}

type refSend struct {
	channel         refChannel
	from, clientNo  string
	send            *message.Send
	id              int64
	seq             uint64
	remembered      int64 // the age of the window then
	contentEncoding string
}

type refRecord struct {
	malformed bool
	answers   []message.Answer
	live      map[int]refMessage // by place in the record
	messages  []*message.Message
	batch     []byte // the record of the message log
	output    uint64 // messages up to and with this record
}

type refMessage struct {
	subject string
	data    []byte
}

func newReference(params fold.Params) *reference {
	return &reference{params: params, seqs: make(map[refChannel]uint64)}
}

// idEpoch is 2024-01-01T00:00:00Z in Unix milliseconds.
const idEpoch = 1704067200000

// fold takes the next record.
func (r *reference) fold(at time.Time, steps bool, sends []*message.Send, malformed bool) {
	r.pass(at, steps)
	rec := refRecord{malformed: malformed, live: make(map[int]refMessage)}
	if !malformed {
		keep := r.params.DedupWindow.Milliseconds()
		if r.steps {
			keep += 10 * (keep / 100)
		}
		for len(r.window) > 0 && r.window[0].remembered < r.age-keep {
			r.window = r.window[1:]
		}
		for i, s := range sends {
			r.apply(&rec, i, s)
		}
	}
	batch := message.MessageBatch{First: r.output + 1, NewestId: uint64(r.newest), Messages: rec.messages}
	var err error
	if rec.batch, err = batch.MarshalVT(); err != nil {
		panic(err) // of sends of the client's, which are valid
	}
	r.output += uint64(len(rec.messages))
	rec.output = r.output
	r.records = append(r.records, rec)
}

// pass lets time pass up to the next record.
func (r *reference) pass(at time.Time, steps bool) {
	if steps && !r.steps {
		r.steps = true
		if !sane(time.UnixMilli(r.now)) {
			r.now = 0
		}
	}
	switch before := r.now; {
	case !r.steps:
		r.now = max(r.now, at.UnixMilli())
		r.age = r.now
	case !sane(at):
	default:
		r.now = at.UnixMilli()
		if most := r.params.DedupWindow.Milliseconds() / 100; before > 0 && r.now > before {
			r.age += min(r.now-before, most)
		}
	}
}

// sane reports whether a clock that shows this may be right.
func sane(at time.Time) bool { return at.UTC().Year() >= 2020 && at.UTC().Year() < 2085 }

func (r *reference) apply(rec *refRecord, place int, s *message.Send) {
	channel := refChannel{s.GetChannelType(), s.GetChannelId()}
	encoded, err := s.MarshalVT()
	if err != nil {
		panic(err) // a send of the client's, which is valid
	}
	if s.GetClientMsgNo() != "" {
		for _, e := range r.window {
			if e.clientNo != s.GetClientMsgNo() || e.channel != channel || e.from != s.GetFromUid() { // the first tells most apart
				continue
			}
			outcome := message.Outcome_OUTCOME_DUPLICATE
			if e.contentEncoding != string(encoded) {
				outcome = message.Outcome_OUTCOME_CONFLICT
			}
			rec.answers = append(rec.answers, message.Answer{MessageId: uint64(e.id), MessageSeq: e.seq, Outcome: outcome})
			return
		}
	}
	id, seq := r.nextID(), uint64(0)
	if !s.GetNoPersist() {
		r.seqs[channel]++
		seq = r.seqs[channel]
	}
	rec.answers = append(rec.answers, message.Answer{MessageId: uint64(id), MessageSeq: seq})
	r.emit(rec, place, s, id, seq)
	if s.GetClientMsgNo() == "" {
		return
	}
	remembered := r.age
	if !r.steps {
		remembered = idEpoch + id>>22
	}
	r.window = append(r.window, refSend{
		channel: channel, from: s.GetFromUid(), clientNo: s.GetClientMsgNo(), send: s, id: id, seq: seq,
		remembered: remembered, contentEncoding: string(encoded),
	})
	if len(r.window) > r.params.DedupEntriesMax {
		r.window = r.window[1:]
	}
}

// emit notes the message that a send becomes.
func (r *reference) emit(rec *refRecord, place int, s *message.Send, id int64, seq uint64) {
	m := &message.Message{
		ChannelId: s.GetChannelId(), ChannelType: s.GetChannelType(), FromUid: s.GetFromUid(), ClientMsgNo: s.GetClientMsgNo(),
		NoPersist: s.GetNoPersist(), RedDot: s.GetRedDot(), Payload: s.GetPayload(),
		MessageId: uint64(id), MessageSeq: seq, WalSeq: uint64(len(r.records) + 1), WalIndex: uint32(place),
	}
	if r.steps && r.now > 0 && r.now != idEpoch+id>>22 {
		m.Timestamp = uint64(r.now)
	}
	if !s.GetNoPersist() {
		rec.messages = append(rec.messages, m)
		return
	}
	data, err := m.MarshalVT()
	if err != nil {
		panic(err) // as above
	}
	rec.live[place] = refMessage{subject: liveSubject(s), data: data}
}

func (r *reference) nextID() int64 {
	switch ms := max(r.now-idEpoch, 0); {
	case ms > r.idTime:
		r.idTime, r.idCount = ms, 0
	case r.newest == 0: // of a time before the first that an ID can hold; 0 itself is no ID
		if r.params.Partition == 0 {
			r.idCount = 1
		}
	case r.idCount == 4095:
		r.idTime, r.idCount = r.idTime+1, 0
	default:
		r.idCount++
	}
	r.newest = r.idTime<<22 | int64(r.params.Partition)<<12 | r.idCount
	return r.newest
}

// liveSubject is what a no_persist message is published on. The names of this world's channels
// have a dot to escape and nothing else.
func liveSubject(s *message.Send) string {
	return fmt.Sprintf("live.%d.%s", s.GetChannelType(), strings.ReplaceAll(s.GetChannelId(), ".", "%2E"))
}
