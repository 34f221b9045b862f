package fold

import (
	"errors"
	"fmt"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ErrNotFollowing is returned for a record of the message log that the state cannot have made.
var ErrNotFollowing = errors.New("record of the message log does not follow the state")

// Adopt takes over what the record with this sequence became, as the message log has it, instead of folding the record. It
// is for a write-ahead log that has lost the record: what was answered stays, and later sends get the numbers that follow.
//
// The message log does not have everything that a record did. A no_persist send is not in it, so a repetition of one counts
// as new. The WAL time is taken from the newest ID.
//
// On an error the state is not to be used.
func (s *State) Adopt(streamSeq uint64, batch *message.BatchView) error {
	if streamSeq != s.walSeq+1 || batch.First != s.partitionSeq+1 || batch.NewestID < s.LastID() {
		return fmt.Errorf("%w: record %d begins with message %d and ends with message_id %d, and the state is at record %d, message %d and message_id %d",
			ErrNotFollowing, streamSeq, batch.First, batch.NewestID, s.walSeq, s.partitionSeq, s.LastID())
	}
	ids, err := message.NewIDClock(s.params.Partition, batch.NewestID)
	if err != nil {
		return fmt.Errorf("%w: record %d: %w", ErrNotFollowing, streamSeq, err)
	}
	s.walSeq, s.clock.ids = streamSeq, ids
	if err := s.adoptTime(batch); err != nil {
		return fmt.Errorf("record %d of the message log: %w", streamSeq, err)
	}
	s.forgetExpired()
	for _, encoded := range batch.Messages {
		send, id, err := message.SplitMessage(encoded)
		if err != nil {
			return fmt.Errorf("record %d of the message log: %w", streamSeq, err)
		}
		view, err := message.ViewSend(send)
		if err != nil {
			return fmt.Errorf("record %d of the message log: %w", streamSeq, err)
		}
		if len(view.ChannelID) == 0 || len(view.ChannelID) > nameBytesMax {
			return fmt.Errorf("%w: record %d has a channel of %d bytes", ErrNotFollowing, streamSeq, len(view.ChannelID))
		}
		if want := s.channels.next(s.channels.hash(view.ChannelType, view.ChannelID), view.ChannelType, view.ChannelID); id.Seq != want || id.WALSeq != streamSeq {
			return fmt.Errorf("%w: message_id %d is message_seq %d of its channel and of record %d, wanted %d and %d", ErrNotFollowing, id.ID, id.Seq, id.WALSeq, want, streamSeq)
		}
		s.partitionSeq++
		s.remember(send, &view, id)
	}
	return nil
}

// adoptTime moves the clock to the time of a record of the message log. A message with a timestamp of its own was folded by
// message.RuleSteps, whatever the record that it was made from said.
func (s *State) adoptTime(batch *message.BatchView) error {
	if len(batch.Messages) == 0 {
		if s.clock.rule == message.RuleFrozen && batch.NewestID > 0 {
			s.clock.record(batch.NewestID.UnixMilli(), s.params)
		}
		return nil
	}
	_, id, err := message.SplitMessage(batch.Messages[0])
	if err != nil {
		return err
	}
	if id.TimestampMilli != 0 {
		s.clock.adopt(message.RuleSteps)
	}
	at := id.AcceptedAt()
	if s.clock.rule == message.RuleFrozen {
		at = batch.NewestID.Time()
	}
	s.clock.record(at.UnixMilli(), s.params)
	return nil
}

// remember adds a send to the window. If the window has one with the same key, it was forgotten before this one was accepted,
// and all older ones with it.
func (s *State) remember(send []byte, view *message.SendView, id message.Identity) {
	if len(view.ClientMsgNo) == 0 {
		return
	}
	key := s.window.keyOf(view)
	for s.window.find(key) != nil {
		s.window.evict()
	}
	if s.window.len() == s.params.DedupEntriesMax {
		s.window.evict()
	}
	s.window.add(windowEntry{key: key, content: contentOf(send), id: id.ID, messageSeq: id.Seq, ageMilli: s.clock.remembered(id.ID)})
}
