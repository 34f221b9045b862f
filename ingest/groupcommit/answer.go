package groupcommit

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-faster/jx"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// Answer is the sequencer's result for one send.
type Answer struct {
	MessageID  uint64
	MessageSeq uint64
	Outcome    message.Outcome
}

var errNotAnAnswer = errors.New("not an encoded AnswerBatch")

// fieldAnswers is AnswerBatch.answers.
const fieldAnswers protowire.Number = 1

// parseAnswers decodes an AnswerBatch into one slice. It walks the outer message itself and reuses one Answer, since the
// generated decoder of AnswerBatch would allocate each answer.
func parseAnswers(data []byte, sends int) ([]Answer, error) {
	answers := make([]Answer, 0, sends)
	var one message.Answer
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, fmt.Errorf("%w: tag: %w", errNotAnAnswer, protowire.ParseError(n))
		}
		data = data[n:]
		if num != fieldAnswers || typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
				return nil, fmt.Errorf("%w: field %d: %w", errNotAnAnswer, num, protowire.ParseError(n))
			}
			data = data[n:]
			continue
		}
		encoded, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return nil, fmt.Errorf("%w: answer %d: %w", errNotAnAnswer, len(answers), protowire.ParseError(n))
		}
		data = data[n:]
		one.MessageId, one.MessageSeq, one.Outcome = 0, 0, 0
		if err := one.UnmarshalVTUnsafe(encoded); err != nil {
			return nil, fmt.Errorf("%w: answer %d: %w", errNotAnAnswer, len(answers), err)
		}
		a := Answer{MessageID: one.MessageId, MessageSeq: one.MessageSeq, Outcome: one.Outcome}
		if err := a.check(); err != nil {
			return nil, fmt.Errorf("answer %d: %w", len(answers), err)
		}
		answers = append(answers, a)
	}
	if len(answers) != sends {
		return nil, fmt.Errorf("%w: %d answers for %d sends", errNotAnAnswer, len(answers), sends)
	}
	return answers, nil
}

// check rejects an answer that no sequencer sends.
func (a Answer) check() error {
	if a.MessageID == 0 || a.MessageID > 1<<63-1 {
		return fmt.Errorf("%w: message_id %d", errNotAnAnswer, a.MessageID)
	}
	if a.Outcome < message.Outcome_OUTCOME_ACCEPTED || a.Outcome > message.Outcome_OUTCOME_CONFLICT {
		return fmt.Errorf("%w: outcome %d", errNotAnAnswer, a.Outcome)
	}
	return nil
}

// JetStream's error codes for a stream that accepts no more messages (nats-server server/errors.json).
const (
	errCodeStreamStoreFailed     = 10077 // "maximum bytes exceeded", "maximum messages exceeded", and disk errors
	errCodeInsufficientResources = 10023
	errCodeStorageExceeded       = 10047
)

// ack is JetStream's response to a publish: PubAck, or the error in its place.
type ack struct {
	stream      []byte
	streamSeq   uint64
	errCode     int
	code        int
	description []byte
}

// parseAck reads {"stream":"SENDS_0","seq":1} or {"error":{"code":…,"err_code":…,"description":"…"},…}.
func parseAck(d *jx.Decoder, data []byte) (ack, error) {
	var a ack
	d.ResetBytes(data)
	err := d.ObjBytes(func(d *jx.Decoder, key []byte) (err error) {
		switch string(key) {
		case "stream":
			a.stream, err = d.StrBytes()
		case "seq":
			a.streamSeq, err = d.UInt64()
		case "error":
			err = a.parseError(d)
		default:
			err = d.Skip()
		}
		return err
	})
	return a, err
}

func (a *ack) parseError(d *jx.Decoder) error {
	return d.ObjBytes(func(d *jx.Decoder, key []byte) (err error) {
		switch string(key) {
		case "code":
			a.code, err = d.Int()
		case "err_code":
			a.errCode, err = d.Int()
		case "description":
			a.description, err = d.StrBytes()
		default:
			err = d.Skip()
		}
		return err
	})
}

func (a *ack) refused() bool { return a.code != 0 || a.errCode != 0 }

// outcome classifies a refusal.
func (a *ack) outcome() outcome.Outcome {
	switch a.errCode {
	case errCodeInsufficientResources, errCodeStorageExceeded:
		return outcome.WALFull
	case errCodeStreamStoreFailed:
		if bytes.HasPrefix(a.description, []byte("maximum ")) {
			return outcome.WALFull
		}
		return outcome.Unknown // a disk error; the record may have been written
	}
	switch {
	case a.code == http.StatusServiceUnavailable:
		return outcome.WALUnavailable
	case a.code >= http.StatusInternalServerError:
		return outcome.Unknown
	default:
		return outcome.WALRefused
	}
}
