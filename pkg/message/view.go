package message

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// SendView is what the fold and the routing need of an encoded send, read
// without copying: the byte slices alias the encoding.
type SendView struct {
	ChannelID   []byte
	FromUID     []byte
	ClientMsgNo []byte
	ChannelType ChannelType
	NoPersist   bool
}

// Field numbers of Send that a view reads.
const (
	fieldChannelID   protowire.Number = 1
	fieldChannelType protowire.Number = 2
	fieldFromUID     protowire.Number = 3
	fieldClientMsgNo protowire.Number = 4
	fieldNoPersist   protowire.Number = 5
)

// ErrNotASend is returned for bytes that are not an encoded Send.
var ErrNotASend = errors.New("not an encoded Send")

// ViewSend reads the view of an encoded send and checks the framing of every
// field. Fields that it does not know are passed over.
//
// It is written by hand: the generated decoder is up to twice as fast on a plain send, but allocates for the list of receivers
// that a command may have, and the fold allocates nothing. [Stored.Decode] is for whole messages.
func ViewSend(encoded []byte) (SendView, error) {
	var v SendView
	for b := encoded; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return SendView{}, fmt.Errorf("%w: tag: %w", ErrNotASend, protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			field, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return SendView{}, fmt.Errorf("%w: field %d: %w", ErrNotASend, num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldChannelID:
				v.ChannelID = field
			case fieldFromUID:
				v.FromUID = field
			case fieldClientMsgNo:
				v.ClientMsgNo = field
			}
		case protowire.VarintType:
			field, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return SendView{}, fmt.Errorf("%w: field %d: %w", ErrNotASend, num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldChannelType:
				v.ChannelType = ChannelType(field)
			case fieldNoPersist:
				v.NoPersist = field != 0
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return SendView{}, fmt.Errorf("%w: field %d: %w", ErrNotASend, num, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	return v, nil
}

// ViewID reads the message_id out of an encoded Message.
func ViewID(encoded []byte) (ID, error) {
	id, err := viewNumber(encoded, fieldMessageID)
	return ID(id), err
}

// ViewSeq reads the message_seq out of an encoded Message.
func ViewSeq(encoded []byte) (uint64, error) { return viewNumber(encoded, fieldMessageSeq) }

// ViewWALSeq reads out of an encoded Message which record of the write-ahead log it was made from.
func ViewWALSeq(encoded []byte) (uint64, error) { return viewNumber(encoded, fieldWALSeq) }

// ViewTime reads out of an encoded Message when it was accepted.
func ViewTime(encoded []byte) (time.Time, error) {
	id, err := ViewID(encoded)
	if err != nil {
		return time.Time{}, err
	}
	milli, err := viewNumber(encoded, fieldTimestamp)
	return timeOf(id, milli), err
}

// AcceptedAt is when the message was accepted, to the millisecond: its timestamp if it has one, else the time in its ID. A
// timestamp that no time of ours can be counts as none.
func (m *Message) AcceptedAt() time.Time { return timeOf(ID(m.GetMessageId()), m.GetTimestamp()) }

// AcceptedAt is [Message.AcceptedAt].
func (id Identity) AcceptedAt() time.Time { return timeOf(id.ID, id.TimestampMilli) }

func timeOf(id ID, timestampMilli uint64) time.Time {
	return time.UnixMilli(milliOf(id, timestampMilli)).UTC()
}

func milliOf(id ID, timestampMilli uint64) int64 {
	if timestampMilli == 0 || timestampMilli > TimestampMilliMax {
		return id.UnixMilli()
	}
	return int64(timestampMilli)
}

// ErrNotAMessage is returned for bytes that are not an encoded Message.
var ErrNotAMessage = errors.New("not an encoded Message")

// viewNumber reads one field of an encoded Message; 0 if it is absent.
func viewNumber(encoded []byte, field protowire.Number) (uint64, error) {
	for b := encoded; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, fmt.Errorf("%w: tag: %w", ErrNotAMessage, protowire.ParseError(n))
		}
		b = b[n:]
		var value uint64
		switch {
		case num == field && typ == protowire.Fixed64Type:
			value, n = protowire.ConsumeFixed64(b)
		case num == field && typ == protowire.VarintType:
			value, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return 0, fmt.Errorf("%w: field %d: %w", ErrNotAMessage, num, protowire.ParseError(n))
		}
		if num == field {
			return value, nil
		}
		b = b[n:]
	}
	return 0, nil
}

// SplitMessage takes an encoded Message, as AppendMessage makes it, apart into the encoded send and the identity. The send
// aliases the message.
func SplitMessage(encoded []byte) (encodedSend []byte, id Identity, err error) {
	end := -1
	for b := encoded; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, Identity{}, fmt.Errorf("%w: tag: %w", ErrNotAMessage, protowire.ParseError(n))
		}
		if num == fieldMessageID && end < 0 {
			end = len(encoded) - len(b)
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return nil, Identity{}, fmt.Errorf("%w: field %d: %w", ErrNotAMessage, num, protowire.ParseError(m))
		}
		value := b[n:]
		switch {
		case num == fieldMessageID && typ == protowire.Fixed64Type:
			v, _ := protowire.ConsumeFixed64(value)
			id.ID = ID(v)
		case num == fieldMessageSeq && typ == protowire.VarintType:
			id.Seq, _ = protowire.ConsumeVarint(value)
		case num == fieldWALSeq && typ == protowire.VarintType:
			id.WALSeq, _ = protowire.ConsumeVarint(value)
		case num == fieldWALIndex && typ == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(value)
			id.WALIndex = uint32(v)
		case num == fieldTimestamp && typ == protowire.VarintType:
			id.TimestampMilli, _ = protowire.ConsumeVarint(value)
		}
		b = b[n+m:]
	}
	if end < 0 || id.ID == 0 || id.WALSeq == 0 {
		return nil, Identity{}, fmt.Errorf("%w: it has no identity", ErrNotAMessage)
	}
	return encoded[:end:end], id, nil
}
