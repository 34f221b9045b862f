// Package natslog is the write-ahead log and the message log of one partition on NATS:
// the ports of package runner.
package natslog

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
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// Logs are the streams of one partition on NATS. They implement [runner.Logs].
type Logs struct {
	nc        *nats.Conn
	answers   *nats.Conn // see Options
	js        jetstream.JetStream
	partition int

	acks   *nats.Subscription
	prefix string // of the subjects that acknowledgements come back on
	onAck  func(streamSeq uint64, err error)
	msg    nats.Msg // reused: publishing encodes it before it returns
	last   []string // its Nats-Expected-Last-Sequence
	traced bool     // what headers say about traces is read
	owns   func() bool
}

// Options are what the owner of a partition adds.
type Options struct {
	// Answers is the connection that answers to ingest go out on.
	Answers *nats.Conn
	// Traced is set if sends are traced: the headers that name them are read.
	Traced bool
	// Owns waits, after a pause of the process, until the lease is confirmed. It is false if the lease has ended. Nil if
	// there is no lease.
	Owns func() bool
}

// New reads and trims the streams of a partition. It cannot write records; see Open.
func New(js jetstream.JetStream, partition int) *Logs {
	return &Logs{nc: js.Conn(), js: js, partition: partition}
}

// Open also appends to the message log and answers. nc carries the records and their acknowledgements. Close it in the end.
func Open(nc *nats.Conn, js jetstream.JetStream, partition int, o Options) (*Logs, error) {
	l := &Logs{nc: nc, answers: o.Answers, js: js, partition: partition, traced: o.Traced, owns: o.Owns, prefix: nc.NewInbox() + ".", last: []string{""}}
	l.msg.Subject = topology.MessagesSubject(partition)
	l.msg.Header = nats.Header{
		jetstream.ExpectedLastSeqHeader: l.last,
		topology.HeaderContentType:      []string{message.BatchContentType},
	}
	var err error
	if l.acks, err = nc.Subscribe(l.prefix+"*", l.acknowledged); err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	return l, nil
}

// Partition is the number of the partition.
func (l *Logs) Partition() int { return l.partition }

// Close ends the subscription; a connection that is closed already is fine.
func (l *Logs) Close() error {
	if err := l.acks.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
		return fmt.Errorf("unsubscribe from acknowledgements: %w", err)
	}
	return nil
}

// OnAck implements [runner.Logs].
func (l *Logs) OnAck(f func(streamSeq uint64, err error)) { l.onAck = f }

// Append implements [runner.Logs].
func (l *Logs) Append(r *runner.Derived, ack bool) error {
	l.msg.Data, l.msg.Reply = r.Data, ""
	if ack {
		l.msg.Reply = l.prefix + strconv.FormatUint(r.StreamSeq, 10)
	}
	l.last[0] = strconv.FormatUint(r.StreamSeq-1, 10)
	if len(r.Traced) > 0 {
		l.msg.Header[topology.HeaderTrace] = []string{r.Traced.String()}
		defer delete(l.msg.Header, topology.HeaderTrace)
	}
	if err := l.nc.PublishMsg(&l.msg); err != nil {
		return fmt.Errorf("publish record %d: %w", r.StreamSeq, broker.Explain(err))
	}
	return nil
}

// acknowledged reads JetStream's answer to the last record of a chunk.
func (l *Logs) acknowledged(m *nats.Msg) {
	want, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, l.prefix), 10, 64)
	if err != nil {
		return // not a subject that was given out
	}
	l.onAck(want, readAck(m, want))
}

func readAck(m *nats.Msg, want uint64) error {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nats.ErrNoResponders
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return fmt.Errorf("acknowledgement of record %d: %w", want, err)
	}
	if ack.Error != nil {
		return ack.Error
	}
	if ack.Seq != want {
		return fmt.Errorf("record %d was stored as %d", want, ack.Seq)
	}
	return nil
}

// Answer refuses once the lease has ended: the next owner answers when it folds the record.
func (l *Logs) Answer(subject string, answers []byte) error {
	if l.owns != nil && !l.owns() {
		return runner.ErrNotOwner
	}
	return l.answers.Publish(subject, answers)
}

// Live implements [runner.Logs].
func (l *Logs) Live(subject string, data []byte) error {
	return l.nc.Publish(subject, data)
}

// WALBounds implements [runner.Logs].
func (l *Logs) WALBounds(ctx context.Context) (runner.Bounds, error) {
	stream, err := l.js.Stream(ctx, topology.WALStream(l.partition))
	if err != nil {
		return runner.Bounds{}, fmt.Errorf("look at the write-ahead log: %w", err)
	}
	info := stream.CachedInfo()
	state := info.State
	b := runner.Bounds{First: state.FirstSeq, Last: state.LastSeq, Bytes: state.Bytes, BytesMax: uint64(max(info.Config.MaxBytes, 0)), Time: info.TimeStamp}
	if state.Msgs == 0 {
		b.First = b.Last + 1
	}
	return b, nil
}

// WALMissing implements [runner.Logs].
func (l *Logs) WALMissing(ctx context.Context, since uint64) (uint64, error) {
	stream, err := l.js.Stream(ctx, topology.WALStream(l.partition))
	if err != nil {
		return 0, fmt.Errorf("look at the write-ahead log: %w", err)
	}
	missing, _, err := broker.FirstGap(ctx, stream, since)
	return missing, err //nolint:wrapcheck // says what was being done
}

// TrimWAL implements [runner.Logs].
func (l *Logs) TrimWAL(ctx context.Context, first uint64) error {
	stream, err := l.js.Stream(ctx, topology.WALStream(l.partition))
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSequence(first))
	}
	if err != nil {
		return fmt.Errorf("trim the write-ahead log: %w", err)
	}
	return nil
}

// OutputTail asks the leader: stream information and the fetch by sequence both
// go through it.
func (l *Logs) OutputTail(ctx context.Context, since uint64) (runner.Tail, error) {
	stream, err := l.js.Stream(ctx, topology.MessagesStream(l.partition))
	if err != nil {
		return runner.Tail{}, fmt.Errorf("look at the message log: %w", err)
	}
	gap, older, err := broker.FirstGap(ctx, stream, since)
	if err != nil {
		return runner.Tail{}, err //nolint:wrapcheck // says what was being done
	}
	state := stream.CachedInfo().State
	tail := runner.Tail{StreamSeq: state.LastSeq, Missing: older}
	if gap > 0 {
		tail.StreamSeq, tail.Beyond = gap-1, state.LastSeq
	}
	if state.Msgs == 0 || tail.StreamSeq < state.FirstSeq {
		return tail, nil
	}
	record, err := broker.RecordAt(ctx, l.js, topology.MessagesStream(l.partition), tail.StreamSeq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return tail, nil // retention took it meanwhile
	}
	if err != nil {
		return runner.Tail{}, fmt.Errorf("read record %d of the message log: %w", tail.StreamSeq, err)
	}
	tail.Found, tail.Data = true, record.Data
	return tail, nil
}

// OutputFrontLost also is true of what an operator has purged by hand of these records, which are derived again.
func (l *Logs) OutputFrontLost(ctx context.Context, since uint64) (bool, error) {
	log, err := messagelog.Open(ctx, l.js, l.partition)
	if err != nil {
		return false, err //nolint:wrapcheck // says what was being done
	}
	kept, err := log.Records(ctx)
	if err != nil || kept.First > kept.Last || kept.First <= since {
		return false, err //nolint:wrapcheck // says what was being done
	}
	return log.Derivable(ctx, kept.First-1) //nolint:wrapcheck // says what was being done
}

// CutOutput refuses if the record after last is there: another owner has derived it again.
func (l *Logs) CutOutput(ctx context.Context, last uint64) error {
	name := topology.MessagesStream(l.partition)
	_, err := broker.RecordAt(ctx, l.js, name, last+1)
	switch {
	case err == nil:
		return fmt.Errorf("record %d of the message log, which was missing, is there", last+1)
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return fmt.Errorf("read record %d of the message log: %w", last+1, err)
	}
	return broker.CutStream(ctx, l.js, name, last) //nolint:wrapcheck // says what was being done
}

// OutputTime implements [runner.Logs].
func (l *Logs) OutputTime(ctx context.Context, streamSeq uint64) (at time.Time, ok bool, err error) {
	name := topology.MessagesStream(l.partition)
	record, err := broker.RecordAt(ctx, l.js, name, streamSeq)
	switch {
	case err == nil:
		return record.Time, true, nil
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return time.Time{}, false, fmt.Errorf("read record %d of the message log: %w", streamSeq, err)
	}
	stream, err := l.js.Stream(ctx, name)
	if err != nil {
		return time.Time{}, false, fmt.Errorf("look at the message log: %w", err)
	}
	state := stream.CachedInfo().State
	return time.Time{}, streamSeq <= state.LastSeq && (state.Msgs == 0 || streamSeq < state.FirstSeq), nil
}

// ReadWAL implements [runner.Logs].
func (l *Logs) ReadWAL(ctx context.Context, from uint64) (runner.Reader, error) {
	messages, err := broker.ReadOrdered(ctx, l.js, topology.WALStream(l.partition), from)
	if err != nil {
		return nil, fmt.Errorf("read the write-ahead log from %d: %w", from, err)
	}
	return &reader{messages: messages, traced: l.traced}, nil
}

type reader struct {
	messages *broker.OrderedReader
	traced   bool
}

func (r *reader) Stop() { r.messages.Stop() }

func (r *reader) Next(ctx context.Context) (runner.Record, error) {
	m, err := r.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return runner.Record{}, fmt.Errorf("read the write-ahead log: %w", err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return runner.Record{}, fmt.Errorf("read the write-ahead log: %w", err)
	}
	record := runner.Record{
		Record:  fold.Record{StreamSeq: meta.Sequence.Stream, Time: meta.Timestamp, Rule: ruleOf(m.Headers()), Data: m.Data()},
		ReplyTo: m.Headers().Get(topology.HeaderReply),
	}
	if r.traced {
		record.Traced = tracing.ParseSamples(m.Headers().Get(topology.HeaderTrace))
	}
	return record, nil
}

// ruleOf is the rule for time that a record names; 0 if none, as of a record that no ingest wrote.
func ruleOf(header nats.Header) int {
	rule, err := strconv.Atoi(header.Get(topology.HeaderRule))
	if err != nil {
		return 0
	}
	return rule
}
