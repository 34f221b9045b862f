package ingest

import (
	"errors"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// faultWAL is what a partition's log lines about its write-ahead log have in common: together they are limited.
const faultWAL = "write-ahead log"

// publisher is the part of nats.Conn that a commit needs.
type publisher interface {
	PublishMsg(msg *nats.Msg) error
	MaxPayload() int64
}

// publish sends a batch, and goes on to the next where that fails at once. Nothing
// is ever published twice.
func (p *partition) publish(b *batch) {
	for b != nil {
		p.metrics.gathered(b)
		header := nats.Header{topology.HeaderReply: {p.inbox.replySubject(p.number, b.no)}, topology.HeaderRule: {strconv.Itoa(message.RuleNewest)}}
		if b.samples != nil {
			header[topology.HeaderTrace] = []string{b.samples.String()}
		}
		err := p.publisher.PublishMsg(&nats.Msg{
			Subject: topology.WALSubject(p.number),
			Reply:   p.inbox.ackSubject(p.number, b.no),
			Header:  header,
			Data:    b.bytes,
		})
		*b.buffer = b.bytes
		p.buffers.put(b.buffer) // PublishMsg has copied it
		b.buffer, b.bytes = nil, nil
		if err == nil {
			return
		}
		if skipped, due := p.faults.Due(faultWAL); due {
			p.log.Warn("a group commit could not be published", "partition", p.number, "sends", b.sends, "error", broker.Explain(err), "skipped", skipped)
		}
		b = p.fail(b.no, publishFailure(err, b.sends))
	}
}

// publishFailure says what an error of PublishMsg means for the sends of a batch.
// Most say that nothing left; an error of writing does not, since the server may have
// got enough before it.
func publishFailure(err error, sends int) outcome {
	switch {
	case errors.Is(err, nats.ErrMaxPayload) && sends == 1:
		return outcomeTooLarge
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrHeadersNotSupported):
		return outcomeWALRefused
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrReconnectBufExceeded):
		return outcomeWALUnavailable
	default:
		return outcomeUnknown
	}
}
