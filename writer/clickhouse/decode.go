package clickhouse

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ErrUndecodable is wrapped where a record of the message log is not a message that can be stored.
var ErrUndecodable = errors.New("not a message that can be stored")

// Field numbers of sendhouse.v1.Message; a test holds them against the descriptor.
const (
	fieldChannelID   protowire.Number = 1
	fieldChannelType protowire.Number = 2
	fieldFromUID     protowire.Number = 3
	fieldClientMsgNo protowire.Number = 4
	fieldNoPersist   protowire.Number = 5
	fieldRedDot      protowire.Number = 6
	fieldSyncOnce    protowire.Number = 7
	fieldStreamNo    protowire.Number = 8
	fieldTagKey      protowire.Number = 9
	fieldExpire      protowire.Number = 10
	fieldSubscribers protowire.Number = 11
	fieldPayload     protowire.Number = 12
	fieldMessageID   protowire.Number = 16
	fieldMessageSeq  protowire.Number = 17
	fieldWALSeq      protowire.Number = 18
	fieldWALIndex    protowire.Number = 19
	fieldTimestamp   protowire.Number = 20
)

// row is one decoded message. Its strings alias the encoding.
type row struct {
	channelID, fromUID, clientMsgNo string
	streamNo, tagKey, payload       string
	id                              message.ID
	seq, walSeq                     uint64
	timestampMilli                  uint64 // 0: the time in id
	expire, walIndex                uint32
	channelType                     uint8
	redDot, syncOnce                uint8
}

// decode reads the encoding of a Message without copying text. The subscribers go to the end of
// *subscribers. Unknown fields are passed over: an older writer can stand behind a newer sequencer.
//
// It is written by hand since the generated code copies every string into memory of its own, which is all
// that it costs to decode a message; a test compares the two.
func (r *row) decode(encoded []byte, subscribers *[]string) error {
	for b := encoded; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return undecodable(num, n)
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			value, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return undecodable(num, n)
			}
			b = b[n:]
			if num == fieldSubscribers {
				*subscribers = append(*subscribers, alias(value))
				continue
			}
			r.setText(num, alias(value))
		case protowire.VarintType:
			value, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return undecodable(num, n)
			}
			b = b[n:]
			if err := r.setNumber(num, value); err != nil {
				return err
			}
		case protowire.Fixed64Type:
			value, n := protowire.ConsumeFixed64(b)
			if n < 0 {
				return undecodable(num, n)
			}
			b = b[n:]
			if num == fieldMessageID {
				r.id = message.ID(value)
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return undecodable(num, n)
			}
			b = b[n:]
		}
	}
	return r.check()
}

func (r *row) setText(num protowire.Number, value string) {
	switch num {
	case fieldChannelID:
		r.channelID = value
	case fieldFromUID:
		r.fromUID = value
	case fieldClientMsgNo:
		r.clientMsgNo = value
	case fieldStreamNo:
		r.streamNo = value
	case fieldTagKey:
		r.tagKey = value
	case fieldPayload:
		r.payload = value
	}
}

func (r *row) setNumber(num protowire.Number, value uint64) error {
	switch num {
	case fieldChannelType:
		if value > math.MaxUint8 {
			return fmt.Errorf("%w: channel_type %d", ErrUndecodable, value)
		}
		r.channelType = uint8(value)
	case fieldNoPersist:
		if value != 0 {
			return fmt.Errorf("%w: it is marked no_persist", ErrUndecodable)
		}
	case fieldRedDot:
		r.redDot = flag(value)
	case fieldSyncOnce:
		r.syncOnce = flag(value)
	case fieldExpire:
		r.expire = uint32(value) // a uint32 field is cut to 32 bits by every protobuf decoder
	case fieldMessageSeq:
		r.seq = value
	case fieldWALSeq:
		r.walSeq = value
	case fieldWALIndex:
		r.walIndex = uint32(value)
	case fieldTimestamp:
		if value > message.TimestampMilliMax {
			return fmt.Errorf("%w: timestamp %d", ErrUndecodable, value)
		}
		r.timestampMilli = value
	}
	return nil
}

// unixMilli is when the message was accepted.
func (r *row) unixMilli() int64 {
	if r.timestampMilli != 0 {
		return int64(r.timestampMilli)
	}
	return r.id.UnixMilli()
}

// check refuses what could not be told apart, or would be filed under the wrong time, in the table.
func (r *row) check() error {
	switch {
	case r.id <= 0:
		return fmt.Errorf("%w: message_id is %d", ErrUndecodable, r.id)
	case r.seq == 0:
		return fmt.Errorf("%w: message %d has no message_seq", ErrUndecodable, r.id)
	case r.channelID == "":
		return fmt.Errorf("%w: message %d has no channel_id", ErrUndecodable, r.id)
	default:
		return nil
	}
}

func undecodable(num protowire.Number, code int) error {
	return fmt.Errorf("%w: field %d: %w", ErrUndecodable, num, protowire.ParseError(code))
}

func flag(value uint64) uint8 {
	if value != 0 {
		return 1
	}
	return 0
}

// alias is a string over the same memory. What Append is given must not change, see Block.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
