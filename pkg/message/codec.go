package message

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Content-Type headers.
const (
	// ContentType is that of an encoded Message.
	ContentType = "application/x-protobuf; messageType=sendhouse.v1.Message"
	// BatchContentType is that of a record in the message log.
	BatchContentType = "application/x-protobuf; messageType=sendhouse.v1.MessageBatch"
)

// Field numbers of the .proto that the codec below writes by itself; a test
// holds them against the descriptor.
const (
	fieldBatchSends    protowire.Number = 1
	fieldBatchAnswers  protowire.Number = 1
	fieldBatchFirst    protowire.Number = 1
	fieldBatchNewestID protowire.Number = 2
	fieldBatchMessages protowire.Number = 3
	fieldAnswerID      protowire.Number = 1
	fieldAnswerSeq     protowire.Number = 2
	fieldAnswerOutcome protowire.Number = 3
	fieldMessageID     protowire.Number = 16
	fieldMessageSeq    protowire.Number = 17
	fieldWALSeq        protowire.Number = 18
	fieldWALIndex      protowire.Number = 19
	fieldTimestamp     protowire.Number = 20
)

const (
	// IdentitySizeMax is the most that AppendMessage adds to an encoded send, in bytes.
	IdentitySizeMax = 2 + 8 + 2 + 10 + 2 + 10 + 2 + 5 + 2 + 10
	// BatchHeadSizeMax is the most that AppendBatchHead adds, in bytes.
	BatchHeadSizeMax = 1 + 10 + 1 + 8
	// MessageFrameOverheadMax is the most that AppendBatchMessage adds to an encoded send, in bytes.
	MessageFrameOverheadMax = 1 + 5 + IdentitySizeMax
	// SendFrameOverheadMax is the most that AppendSend adds to an encoded send, in bytes.
	SendFrameOverheadMax = 1 + 5
)

// Identity is what the sequencer adds to a send.
type Identity struct {
	ID       ID
	Seq      uint64 // message_seq in the channel; 0 for no_persist
	WALSeq   uint64 // stream sequence of the record in the write-ahead log
	WALIndex uint32 // place in the record, from 0
	// TimestampMilli is when the broker stored the send, in Unix milliseconds; 0 if that is the time in the ID.
	TimestampMilli uint64
}

// AppendMessage appends the encoding of the message that the encoded send
// becomes with this identity. Message has the fields of Send and more, so the
// send's bytes are copied as they are.
func AppendMessage(dst, encodedSend []byte, id Identity) []byte {
	dst = append(dst, encodedSend...)
	dst = protowire.AppendTag(dst, fieldMessageID, protowire.Fixed64Type)
	dst = protowire.AppendFixed64(dst, uint64(id.ID))
	if id.Seq != 0 {
		dst = protowire.AppendTag(dst, fieldMessageSeq, protowire.VarintType)
		dst = protowire.AppendVarint(dst, id.Seq)
	}
	dst = protowire.AppendTag(dst, fieldWALSeq, protowire.VarintType)
	dst = protowire.AppendVarint(dst, id.WALSeq)
	if id.WALIndex != 0 {
		dst = protowire.AppendTag(dst, fieldWALIndex, protowire.VarintType)
		dst = protowire.AppendVarint(dst, uint64(id.WALIndex))
	}
	if id.TimestampMilli != 0 {
		dst = protowire.AppendTag(dst, fieldTimestamp, protowire.VarintType)
		dst = protowire.AppendVarint(dst, id.TimestampMilli)
	}
	return dst
}

// size is what AppendMessage adds.
func (id Identity) size() int {
	n := 2 + 8 + 2 + protowire.SizeVarint(id.WALSeq)
	if id.Seq != 0 {
		n += 2 + protowire.SizeVarint(id.Seq)
	}
	if id.WALIndex != 0 {
		n += 2 + protowire.SizeVarint(uint64(id.WALIndex))
	}
	if id.TimestampMilli != 0 {
		n += 2 + protowire.SizeVarint(id.TimestampMilli)
	}
	return n
}

// AppendBatchHead begins an encoded MessageBatch; AppendBatchMessage adds the messages.
func AppendBatchHead(dst []byte, first uint64, newest ID) []byte {
	dst = protowire.AppendTag(dst, fieldBatchFirst, protowire.VarintType)
	dst = protowire.AppendVarint(dst, first)
	if newest == 0 { // none was given yet
		return dst
	}
	dst = protowire.AppendTag(dst, fieldBatchNewestID, protowire.Fixed64Type)
	return protowire.AppendFixed64(dst, uint64(newest))
}

// AppendBatchMessage appends what AppendMessage makes as one element of an encoded MessageBatch.
func AppendBatchMessage(dst, encodedSend []byte, id Identity) []byte {
	dst = protowire.AppendTag(dst, fieldBatchMessages, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(encodedSend)+id.size()))
	return AppendMessage(dst, encodedSend, id)
}

// BatchView is an encoded MessageBatch taken apart.
type BatchView struct {
	First    uint64
	NewestID ID
	Messages [][]byte // encoded; they alias the batch
}

// Next is the partition_seq of the first message after the batch.
func (v *BatchView) Next() uint64 { return v.First + uint64(len(v.Messages)) }

// ErrNotAMessageBatch is returned for bytes that are not an encoded MessageBatch.
var ErrNotAMessageBatch = errors.New("not an encoded MessageBatch")

// ViewBatch takes an encoded MessageBatch apart, into what v has room for. Whether its messages can be read is not checked.
func ViewBatch(batch []byte, v *BatchView) error {
	v.First, v.NewestID, v.Messages = 0, 0, v.Messages[:0]
	for b := batch; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: tag: %w", ErrNotAMessageBatch, protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case num == fieldBatchMessages && typ == protowire.BytesType:
			var one []byte
			one, n = protowire.ConsumeBytes(b)
			v.Messages = append(v.Messages, one[:len(one):len(one)])
		case num == fieldBatchFirst && typ == protowire.VarintType:
			v.First, n = protowire.ConsumeVarint(b)
		case num == fieldBatchNewestID && typ == protowire.Fixed64Type:
			var id uint64
			id, n = protowire.ConsumeFixed64(b)
			v.NewestID = ID(id)
		default: // of a later version
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("%w: field %d: %w", ErrNotAMessageBatch, num, protowire.ParseError(n))
		}
		b = b[n:]
	}
	if v.First == 0 {
		return fmt.Errorf("%w: it does not say which message is its first", ErrNotAMessageBatch)
	}
	return nil
}

// AppendSend appends s to dst as one element of an encoded SendBatch.
func AppendSend(dst []byte, s *Send) ([]byte, error) {
	size := s.SizeVT()
	dst = protowire.AppendTag(dst, fieldBatchSends, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	start := len(dst)
	dst = append(dst, make([]byte, size)...)
	n, err := s.MarshalToSizedBufferVT(dst[start:])
	if err != nil {
		return dst, fmt.Errorf("encode send: %w", err)
	}
	if n != size {
		return dst, fmt.Errorf("encode send: wrote %d bytes of %d", n, size)
	}
	return dst, nil
}

// AppendAnswer appends an answer to dst as one element of an encoded AnswerBatch.
func AppendAnswer(dst []byte, id ID, seq uint64, outcome Outcome) []byte {
	size := 1 + 8 + 1 + protowire.SizeVarint(seq) + 1 + protowire.SizeVarint(uint64(outcome))
	dst = protowire.AppendTag(dst, fieldBatchAnswers, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = protowire.AppendTag(dst, fieldAnswerID, protowire.Fixed64Type)
	dst = protowire.AppendFixed64(dst, uint64(id))
	dst = protowire.AppendTag(dst, fieldAnswerSeq, protowire.VarintType)
	dst = protowire.AppendVarint(dst, seq)
	dst = protowire.AppendTag(dst, fieldAnswerOutcome, protowire.VarintType)
	return protowire.AppendVarint(dst, uint64(outcome))
}

// ErrNotABatch is returned for bytes that are not an encoded SendBatch.
var ErrNotABatch = errors.New("not an encoded SendBatch")

// NextSend takes the first element off an encoded SendBatch and returns its
// encoded send and the rest. Both alias batch.
func NextSend(batch []byte) (encodedSend, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(batch)
	if n < 0 || num != fieldBatchSends || typ != protowire.BytesType {
		return nil, nil, fmt.Errorf("%w: field %d at %d bytes from the end", ErrNotABatch, num, len(batch))
	}
	encodedSend, m := protowire.ConsumeBytes(batch[n:])
	if m < 0 {
		return nil, nil, fmt.Errorf("%w: cut send: %w", ErrNotABatch, protowire.ParseError(m))
	}
	return encodedSend, batch[n+m:], nil
}
