package clickhouse

import (
	"errors"
	"fmt"
	"math"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ErrUndecodable is wrapped if a message of the message log cannot be decoded or stored.
var ErrUndecodable = errors.New("not a message that can be stored")

// decode reads an encoded message, whose texts s aliases. A field that this program does not know is left out: an older writer can read what a
// newer sequencer wrote.
func decode(s *message.Stored, partitionSeq uint64, encoded []byte) error {
	err := s.Decode(encoded)
	if err == nil {
		err = check(&s.Message)
	}
	if err != nil {
		return fmt.Errorf("partition_seq %d: %w: %w", partitionSeq, ErrUndecodable, err)
	}
	s.Partition, s.PartitionSeq = message.ID(s.Message.GetMessageId()).Partition(), partitionSeq
	return nil
}

// check refuses what could not be told apart, or would be filed under the wrong time, in the table.
func check(m *message.Message) error {
	id := int64(m.GetMessageId())
	switch {
	case id <= 0:
		return fmt.Errorf("message_id is %d", id)
	case m.GetMessageSeq() == 0:
		return fmt.Errorf("message %d has no message_seq", id)
	case m.GetChannelId() == "":
		return fmt.Errorf("message %d has no channel_id", id)
	case m.GetChannelType() > math.MaxUint8:
		return fmt.Errorf("channel_type %d", m.GetChannelType())
	case m.GetNoPersist():
		return errors.New("it is marked no_persist")
	case m.GetTimestamp() > message.TimestampMilliMax:
		return fmt.Errorf("timestamp %d", m.GetTimestamp())
	default:
		return nil
	}
}
