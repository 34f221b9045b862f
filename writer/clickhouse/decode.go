package clickhouse

import (
	"errors"
	"fmt"
	"math"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ErrUndecodable is wrapped by errors about messages that cannot be decoded or stored.
var ErrUndecodable = errors.New("not a message that can be stored")

// Decode reads an encoded message of the message log into s, whose strings alias it. It ignores unknown fields, so that an
// older writer can read messages of a newer sequencer. For what [Block.Append] refuses, and the writer makes a dead letter, it
// returns an error that wraps [ErrUndecodable].
func Decode(s *message.Stored, partitionSeq uint64, encoded []byte) error {
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

// RowOf returns an encoded message of the message log as [Client.Page] returns it from the table. Its texts alias the encoding.
func RowOf(encoded []byte) (Row, error) {
	var s message.Stored
	if err := Decode(&s, 0, encoded); err != nil {
		return Row{}, err
	}
	m := &s.Message
	flag := func(set bool) uint8 {
		if set {
			return 1
		}
		return 0
	}
	return Row{
		MessageID: int64(m.GetMessageId()), MessageSeq: m.GetMessageSeq(), FromUID: m.GetFromUid(), ClientMsgNo: m.GetClientMsgNo(),
		RedDot: flag(m.GetRedDot()), SyncOnce: flag(m.GetSyncOnce()), StreamNo: m.GetStreamNo(), TagKey: m.GetTagKey(), Expire: m.GetExpire(),
		Subscribers: m.GetSubscribers(), UnixSeconds: uint32(m.AcceptedAt().Unix()), Payload: string(m.GetPayload()),
	}, nil
}

// check refuses messages that the table could not distinguish, or would store under the wrong time.
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
