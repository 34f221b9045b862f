package message

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// ContentType is the Content-Type header of a record in the message log.
const ContentType = "application/x-protobuf; messageType=sendhouse.v1.Message"

// Field numbers of the .proto that the codec below writes by itself; a test
// holds them against the descriptor.
const (
	fieldBatchSends    protowire.Number = 1
	fieldBatchAnswers  protowire.Number = 1
	fieldAnswerID      protowire.Number = 1
	fieldAnswerSeq     protowire.Number = 2
	fieldAnswerOutcome protowire.Number = 3
	fieldMessageID     protowire.Number = 16
	fieldMessageSeq    protowire.Number = 17
	fieldWALSeq        protowire.Number = 18
	fieldWALIndex      protowire.Number = 19
)

const (
	// IdentitySizeMax is the most that AppendMessage adds to an encoded send, in bytes.
	IdentitySizeMax = 2 + 8 + 2 + 10 + 2 + 10 + 2 + 5
	// SendFrameOverheadMax is the most that AppendSend adds to an encoded send, in bytes.
	SendFrameOverheadMax = 1 + 5
)

// Identity is what the sequencer adds to a send.
type Identity struct {
	ID       ID
	Seq      uint64 // message_seq in the channel; 0 for no_persist
	WALSeq   uint64 // stream sequence of the record in the write-ahead log
	WALIndex uint32 // place in the record, from 0
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
	return dst
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
