package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// The reasons of the writer's dead letters, the last token of their subject.
const (
	// reasonUndecodable: the record is not a message that can be stored. The body is the record.
	reasonUndecodable = "undecodable"
	// reasonRefused: ClickHouse refuses this row. The body is the record.
	reasonRefused = "refused"
	// reasonLost: records disappeared from the stream before they were read. The body is a JSON object with their range.
	reasonLost = "lost"
)

// errorBytesMax limits the error text in the header of a dead letter. ClickHouse repeats constraints and values in its
// errors, and JetStream refuses a message with more than 64 KiB of headers.
const errorBytesMax = 4 << 10

// deadLetters publishes records that cannot become rows to the dead-letter stream. A failure can make it publish a
// letter twice: JetStream drops the second one within its duplicate window, because both have the same Nats-Msg-Id;
// after that, the partition_seq identifies them.
type deadLetters struct {
	js      jetstream.JetStream
	stream  string
	timeout time.Duration
}

func (d *deadLetters) put(ctx context.Context, reason string, seq uint64, body []byte, contentType, token string, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	subject := topology.DeadLetterSubject(subsystem, reason)
	msg := &nats.Msg{
		Subject: subject,
		Data:    body,
		Header: nats.Header{
			topology.HeaderContentType:    {contentType},
			deadletter.HeaderError:        {headerText(cause.Error())},
			deadletter.HeaderStream:       {d.stream},
			deadletter.HeaderPartitionSeq: {strconv.FormatUint(seq, 10)},
		},
	}
	if token != "" {
		msg.Header.Set(deadletter.HeaderToken, token)
	}
	if _, err := d.js.PublishMsg(ctx, msg, jetstream.WithMsgID(subject+"/"+d.stream+"/"+strconv.FormatUint(seq, 10))); err != nil {
		return fmt.Errorf("put %s %d into the dead letters: %w", d.stream, seq, err)
	}
	return nil
}

// headerText turns a text into the value of a header: one line of limited length.
func headerText(text string) string {
	if whole := len(text); whole > errorBytesMax {
		text = fmt.Sprintf("%s… (the beginning of %d bytes)", strings.ToValidUTF8(text[:errorBytesMax], ""), whole)
	}
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(text)
}

func (d *deadLetters) putRecord(ctx context.Context, bad badRecord, record []byte) error {
	return d.put(ctx, bad.reason, bad.seq, record, message.ContentType, bad.token, bad.err)
}

func (d *deadLetters) putLost(ctx context.Context, partition int, lost seqRange) error {
	body, err := json.Marshal(map[string]any{"partition": partition, "stream": d.stream, "first": lost.First, "last": lost.Last})
	if err != nil {
		return fmt.Errorf("encode lost range: %w", err)
	}
	return d.put(ctx, reasonLost, lost.First, body, "application/json", "", fmt.Errorf("%d records disappeared before they were read", lost.count()))
}

// Letter is a record that became a dead letter instead of a row.
type Letter struct {
	Partition    int
	PartitionSeq uint64
}

// lettersMax limits the number of dead letters that are kept, newest first.
const lettersMax = 1 << 20

// lettersWait limits the wait for the stream to deliver its dead letters.
const lettersWait = 10 * time.Second

// ReadLetters returns the records that became dead letters.
func ReadLetters(ctx context.Context, js jetstream.JetStream) (map[Letter]bool, error) {
	letters := make(map[Letter]bool)
	stream, err := js.Stream(ctx, topology.DeadLettersStream)
	if err != nil {
		return nil, fmt.Errorf("open the dead letters: %w", err)
	}
	state := stream.CachedInfo().State
	first := max(state.FirstSeq, state.LastSeq-min(state.LastSeq, lettersMax)+1)
	if state.Msgs == 0 || first > state.LastSeq {
		return letters, nil
	}
	messages, err := broker.ReadOrdered(ctx, js, topology.DeadLettersStream, first)
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	defer messages.Stop()
	for {
		wait, cancel := context.WithTimeout(ctx, lettersWait)
		m, err := messages.Next(jetstream.NextContext(wait))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			break // the remaining ones were deleted
		}
		if err != nil {
			return nil, fmt.Errorf("read the dead letters: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("read the dead letters: %w", err)
		}
		if one, ok := letterOf(m); ok {
			letters[one] = true
		}
		if meta.Sequence.Stream >= state.LastSeq {
			break
		}
	}
	return letters, nil
}

// letterOf parses a dead letter of a record. A letter of a lost range belongs to no record of the log.
func letterOf(m jetstream.Msg) (Letter, bool) {
	kind, partition, ok := topology.KindOf(m.Headers().Get(deadletter.HeaderStream))
	seq, err := strconv.ParseUint(m.Headers().Get(deadletter.HeaderPartitionSeq), 10, 64)
	return Letter{partition, seq}, ok && kind == topology.KindMessages && err == nil
}
