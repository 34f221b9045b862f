package fold

import (
	"errors"
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Params decide, beside the log, what the fold answers. They are fixed for the
// life of a deployment.
type Params struct {
	Partition       int
	DedupWindow     time.Duration // by the window's clock; see clock
	DedupEntriesMax int           // the oldest are forgotten first
}

// Record is one record of the write-ahead log.
type Record struct {
	StreamSeq uint64    // from 1
	Time      time.Time // the broker's timestamp, whatever it is
	Rule      int       // for time; one below message.RuleFrozen names none
	Data      []byte    // an encoded SendBatch
}

// Effect is what one send became.
type Effect struct {
	Outcome message.Outcome
	// Identity is the send's own or, for a duplicate or a conflict, that of the
	// earlier send.
	Identity message.Identity
	// PartitionSeq is the partition_seq of the message. It is 0 if the send adds no message to the message log: a duplicate,
	// a conflict, or no_persist.
	PartitionSeq uint64
	// Send and View alias the record's data.
	Send []byte
	View message.SendView
}

// Live reports whether the send is to be published once and stored nowhere.
func (e *Effect) Live() bool {
	return e.Outcome == message.Outcome_OUTCOME_ACCEPTED && e.View.NoPersist
}

var (
	// ErrNotNext is returned for a record that does not follow the last one
	// folded. Nothing was folded.
	ErrNotNext = errors.New("record does not follow the last one folded")
	// ErrMalformed is returned for a record that is no batch of sends. The record
	// counts as folded and has no effects, in every fold.
	ErrMalformed = errors.New("malformed record")
	// ErrIDsUsedUp is returned for a record with more sends than there are IDs left after the last one given. Only an older
	// version, whose IDs followed any clock, can have come that far. The state is not to be used afterwards.
	ErrIDsUsedUp = errors.New("the message_ids are used up: an older version has followed a clock that showed a time after " +
		time.UnixMilli(message.FollowedMilliMax).UTC().Format(time.DateOnly))
)

// State is a partition's state. It is not safe for concurrent use.
type State struct {
	params       Params
	clock        clock
	walSeq       uint64
	partitionSeq uint64
	channels     channelTable
	window       window

	ahead [aheadMax]lookup // of the sends that are next
	read  uint64
}

// New is the state before the first record.
func New(params Params) (*State, error) {
	if params.DedupWindow <= 0 || params.DedupEntriesMax <= 0 || params.DedupEntriesMax >= slotInUse/2 {
		return nil, fmt.Errorf("fold: deduplication window %s, %d entries: out of range", params.DedupWindow, params.DedupEntriesMax)
	}
	ids, err := message.NewIDClock(params.Partition, 0)
	if err != nil {
		return nil, fmt.Errorf("fold: %w", err)
	}
	return &State{params: params, clock: clock{rule: message.RuleFrozen, ids: ids}, channels: newChannelTable(), window: newWindow()}, nil
}

// WALSeq is the stream sequence of the last record folded, 0 if none.
func (s *State) WALSeq() uint64 { return s.walSeq }

// PartitionSeq is the partition_seq of the last message, 0 before the first. It is also the number of messages that the
// folded records put into the message log.
func (s *State) PartitionSeq() uint64 { return s.partitionSeq }

// LastID is the last ID given, 0 if none. All later ones are greater.
func (s *State) LastID() message.ID { return s.clock.ids.Last() }

// Channels is the number of channels that have a sequence.
func (s *State) Channels() int { return s.channels.len() }

// DedupEntries is the number of sends in the deduplication window.
func (s *State) DedupEntries() int { return s.window.len() }

// Remembers is for how long a send is surely known by its client_msg_no, from the record that holds it: the age of the oldest entry that at most
// half of DedupEntriesMax others have followed. So as many sends again must come before it is forgotten, which leaves time to act on it.
func (s *State) Remembers() time.Duration {
	half := uint64(max(s.params.DedupEntriesMax/2, 1))
	if uint64(s.window.len()) < half {
		return s.params.DedupWindow
	}
	age := s.clock.ageMilli - s.window.entries.at(s.window.entries.next-half).ageMilli
	return min(s.params.DedupWindow, time.Duration(max(age, 1))*time.Millisecond)
}

// Fold folds the next record and appends an effect for each of its sends, in
// order, to effects. A record that is not the next one is ErrNotNext; one that
// cannot be read is ErrMalformed; ErrRule and ErrIDsUsedUp end the folding.
func (s *State) Fold(r Record, effects []Effect) ([]Effect, error) {
	if r.StreamSeq != s.walSeq+1 {
		return effects, fmt.Errorf("%w: have %d, got %d", ErrNotNext, s.walSeq, r.StreamSeq)
	}
	if r.Rule > message.RuleNewest {
		return effects, fmt.Errorf("%w: record %d, rule %d", ErrRule, r.StreamSeq, r.Rule)
	}
	s.walSeq = r.StreamSeq
	s.clock.adopt(r.Rule)
	s.clock.record(r.Time.UnixMilli(), s.params)

	start := len(effects)
	effects, err := read(r.Data, effects)
	if err != nil {
		return effects[:start], fmt.Errorf("%w %d: %w", ErrMalformed, r.StreamSeq, err)
	}
	if int64(len(effects)-start) > s.clock.ids.Left(s.clock.idMilli()) {
		return effects[:start], fmt.Errorf("%w (record %d)", ErrIDsUsedUp, r.StreamSeq)
	}
	s.forgetExpired()
	for done := start; done < len(effects); done += aheadMax {
		next := effects[done:min(done+aheadMax, len(effects))]
		s.lookAhead(next)
		for i := range next {
			s.apply(&next[i], &s.ahead[i], uint32(done-start+i))
		}
	}
	return effects, nil
}

// read reads a whole record before any of it takes effect.
func read(batch []byte, effects []Effect) ([]Effect, error) {
	for len(batch) > 0 {
		send, rest, err := message.NextSend(batch)
		if err != nil {
			return effects, err
		}
		view, err := message.ViewSend(send)
		if err != nil {
			return effects, err
		}
		if len(view.ChannelID) == 0 || len(view.ChannelID) > nameBytesMax || !view.ChannelType.Valid() {
			return effects, fmt.Errorf("channel of %d bytes, type %d", len(view.ChannelID), view.ChannelType)
		}
		effects = append(effects, Effect{Send: send, View: view})
		batch = rest
	}
	return effects, nil
}

// forgetExpired drops what the deduplication window has left behind.
func (s *State) forgetExpired() {
	horizon := s.clock.ageMilli - s.clock.keepMilli(s.params)
	for n := 0; s.window.len() > 0 && s.window.oldest().ageMilli < horizon; n++ {
		if n%aheadMax == 0 {
			s.read += s.window.readOldest(aheadMax)
		}
		s.window.evict()
	}
}

func (s *State) apply(e *Effect, at *lookup, index uint32) {
	if len(e.View.ClientMsgNo) == 0 { // ingest always sets one; another publisher may not
		s.accept(e, at, index)
		return
	}
	if earlier := s.window.find(at.key); earlier != nil {
		e.Outcome = message.Outcome_OUTCOME_DUPLICATE
		if earlier.content != at.content {
			e.Outcome = message.Outcome_OUTCOME_CONFLICT
		}
		e.Identity.ID, e.Identity.Seq = earlier.id, earlier.messageSeq
		return
	}
	s.accept(e, at, index)
	if s.window.len() == s.params.DedupEntriesMax {
		s.window.evict()
	}
	s.window.add(windowEntry{key: at.key, content: at.content, id: e.Identity.ID, messageSeq: e.Identity.Seq, ageMilli: s.clock.remembered(e.Identity.ID)})
}

func (s *State) accept(e *Effect, at *lookup, index uint32) {
	e.Outcome = message.Outcome_OUTCOME_ACCEPTED
	e.Identity = s.clock.next()
	e.Identity.WALSeq, e.Identity.WALIndex = s.walSeq, index
	if e.View.NoPersist {
		return
	}
	e.Identity.Seq = s.channels.next(at.channel, e.View.ChannelType, e.View.ChannelID)
	s.partitionSeq++
	e.PartitionSeq = s.partitionSeq
}

// aheadMax is how many sends are looked up together: enough that their loads overlap, few enough that what they load
// is still in the first cache when it is used.
const aheadMax = 32

// lookup is where the tables have a send.
type lookup struct {
	key     [2]uint64 // in the window; of no use where the send has no client_msg_no
	content uint64
	channel uint64 // hash
}

// lookAhead hashes the next sends, and reads where the tables have them or would have them. A table of a million lies outside of
// the caches, and one send's lookups have to wait for each other; those of many sends do not, so the processor loads for all of
// them at one time what apply would have to wait for send by send. What the sends become does not depend on it.
func (s *State) lookAhead(effects []Effect) {
	for i := range effects {
		v, at := &effects[i].View, &s.ahead[i]
		at.key, at.content = s.window.keyOf(v), contentOf(effects[i].Send)
		at.channel = s.channels.hash(v.ChannelType, v.ChannelID)
	}
	var entries [aheadMax]uint32
	read := uint64(0) // so that the compiler leaves the reading in
	for i := range effects {
		at := &s.ahead[i]
		entries[i] = s.channels.likely(at.channel)
		read += uint64(s.window.index[s.window.slot(at.key)].pos)
	}
	read += s.window.readOldest(s.window.len() + len(effects) - s.params.DedupEntriesMax) // those that will be evicted
	var names [aheadMax]nameRef
	for i := range effects {
		if entries[i] > 0 {
			names[i] = s.channels.entries.at(uint64(entries[i] - 1)).name
		}
	}
	for i := range effects {
		if entries[i] > 0 {
			channelType, _ := s.channels.arena.get(names[i])
			read += uint64(channelType)
		}
	}
	s.read += read
}
