package message

import (
	"errors"
	"fmt"

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
