package groupcommit

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/go-faster/jx"
	"github.com/nats-io/nats.go"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// inbox is the single subscription for every message addressed to this process:
//
//	<prefix>.a.<partition>.<batch>   JetStream acknowledges or refuses a group commit
//	<prefix>.r.<partition>.<batch>   the sequencer answers it
//	<prefix>.p.<partition>.<probe>   JetStream refuses a probe (readiness.go)
//
// The prefix is unique to the process, so an answer addressed to a previous run is not delivered.
type inbox struct {
	prefix string
	log    *slog.Logger
	json   jx.Decoder // used only by the subscription's goroutine
}

const (
	kindAck   = 'a'
	kindReply = 'r'
	kindProbe = 'p'
)

func newInbox(nc *nats.Conn, log *slog.Logger) *inbox {
	return &inbox{prefix: nc.NewInbox(), log: log}
}

func (i *inbox) ackSubject(partition int, no uint64) string {
	return i.subject(kindAck, partition, no)
}

func (i *inbox) replySubject(partition int, no uint64) string {
	return i.subject(kindReply, partition, no)
}

func (i *inbox) subject(kind byte, partition int, no uint64) string {
	b := make([]byte, 0, 96)
	b = append(b, i.prefix...)
	b = append(b, '.', kind, '.')
	b = strconv.AppendInt(b, int64(partition), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, no, 10)
	return string(b)
}

var errForeignSubject = errors.New("not a subject of this inbox")

// parse splits a subject of the inbox.
func (i *inbox) parse(subject string) (kind byte, partition int, no uint64, err error) {
	rest, ok := strings.CutPrefix(subject, i.prefix+".")
	if !ok || len(rest) < len("a.0.1") || rest[1] != '.' {
		return 0, 0, 0, fmt.Errorf("%q: %w", subject, errForeignSubject)
	}
	kind = rest[0]
	p, n, _ := strings.Cut(rest[2:], ".")
	partition, perr := strconv.Atoi(p)
	no, nerr := strconv.ParseUint(n, 10, 64)
	if perr != nil || nerr != nil || kind != kindAck && kind != kindReply && kind != kindProbe {
		return 0, 0, 0, fmt.Errorf("%q: %w", subject, errForeignSubject)
	}
	return kind, partition, no, nil
}

// receive handles one message of the inbox. The subscription calls it serially; it must not block, since every request
// waits for its answer here.
func (i *inbox) receive(partitions []*partition, msg *nats.Msg) {
	kind, number, no, err := i.parse(msg.Subject)
	if err != nil || number < 0 || number >= len(partitions) {
		i.log.Warn("discarding an unexpected message on the reply inbox", "subject", msg.Subject)
		return
	}
	p := partitions[number]
	if kind == kindReply {
		p.onAnswer(no, msg.Data)
		return
	}
	if kind == kindProbe {
		p.onProbe(i.probeProblem(msg))
		return
	}
	if noStream(msg) {
		if skipped, due := p.faults.Due(faultWAL); due {
			i.log.Warn("no stream takes the write-ahead log's subject", "partition", number, "stream", topology.WALStream(number), "skipped", skipped)
		}
		p.onRefusal(no, outcome.WALUnavailable)
		return
	}
	a, err := parseAck(&i.json, msg.Data)
	switch {
	case err != nil:
		// The record may have been written or not; the acknowledgement timer reports the batch in time.
		i.log.Error("invalid acknowledgement from JetStream", "partition", number, "error", err)
	case a.refused():
		if skipped, due := p.faults.Due(faultWAL); due {
			i.log.Warn("the write-ahead log refused a group commit", "partition", number,
				"code", a.code, "err_code", a.errCode, "description", string(a.description), "skipped", skipped)
		}
		p.onRefusal(no, a.outcome())
	case a.streamSeq == 0 || string(a.stream) != topology.WALStream(number):
		i.log.Error("group commit was acknowledged by a stream other than the write-ahead log", "partition", number, "stream", string(a.stream), "stream_seq", a.streamSeq)
		p.onRefusal(no, outcome.Internal)
	default:
		p.onAck(no)
	}
}

// noStream reports whether msg is NATS's no-responders status for the log's subject: the stream is missing or has no
// leader.
func noStream(msg *nats.Msg) bool { return len(msg.Data) == 0 && msg.Header.Get("Status") == "503" }

// faultWAL is the key under which a partition's log lines about its write-ahead log are rate-limited together.
const faultWAL = "write-ahead log"

// publisher is the part of nats.Conn that a commit needs.
type publisher interface {
	PublishMsg(msg *nats.Msg) error
	MaxPayload() int64
}

// publish sends a batch. If that fails at once, it fails the batch and continues with the next. Nothing is published
// twice.
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
		p.buffers.Put(b.buffer) // PublishMsg has copied it
		b.buffer, b.bytes = nil, nil
		if err == nil {
			return
		}
		if skipped, due := p.faults.Due(faultWAL); due {
			p.log.Warn("cannot publish a group commit", "partition", p.number, "sends", b.sends, "error", broker.Explain(err), "skipped", skipped)
		}
		b = p.fail(b.no, publishFailure(err, b.sends))
	}
}

// publishFailure classifies an error of PublishMsg for the sends of a batch. After most errors nothing was sent; after a
// write error the server may already have received the whole message.
func publishFailure(err error, sends int) outcome.Outcome {
	switch {
	case errors.Is(err, nats.ErrMaxPayload) && sends == 1:
		return outcome.TooLarge
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrHeadersNotSupported):
		return outcome.WALRefused
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrReconnectBufExceeded):
		return outcome.WALUnavailable
	default:
		return outcome.Unknown
	}
}
