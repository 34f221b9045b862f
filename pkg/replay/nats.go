package replay

import (
	"context"
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
)

const (
	publishMax  = 500
	publishWait = 30 * time.Second
)

// Headers that say where in the message log a replayed message is from.
const (
	HeaderPartition    = "Sendhouse-Partition"
	HeaderPartitionSeq = "Sendhouse-Partition-Seq"
)

// Subject publishes messages into a stream of NATS, each as a record of its own on <prefix>.<partition>.<channel_type>.<channel token>.
type Subject struct {
	js     jetstream.JetStream
	prefix string
	stream string
	replay string
	there  map[messageKey]bool // published before, after the mark
	mark   uint64
}

// messageKey names a message of the deployment.
type messageKey struct {
	partition    int
	partitionSeq uint64
}

// NewSubject finds the stream that takes the subjects below a prefix.
func NewSubject(ctx context.Context, js jetstream.JetStream, prefix string) (*Subject, error) {
	if err := checkSubject(prefix); err != nil {
		return nil, err
	}
	name, err := js.StreamNameBySubject(ctx, prefix+".>")
	if err != nil {
		return nil, fmt.Errorf("--subject: find the stream that takes %s.>: %w (make one: nats stream add)", prefix, err)
	}
	return &Subject{js: js, prefix: prefix, stream: name}, nil
}

func checkSubject(prefix string) error {
	if prefix == "" || strings.ContainsAny(prefix, " \t\r\n*>") || strings.HasPrefix(prefix, ".") || strings.HasSuffix(prefix, ".") || strings.Contains(prefix, "..") {
		return fmt.Errorf("--subject %q: must be a subject without wildcards", prefix)
	}
	if first, _, _ := strings.Cut(prefix, "."); first == "messages" || first == "sends" || first == "deadletters" {
		return fmt.Errorf("--subject %q: %s.> belongs to Sendhouse's own streams", prefix, first)
	}
	return nil
}

// Name names the stream and the subject.
func (s *Subject) Name() string { return "stream " + s.stream + ", subject " + s.prefix + ".>" }

// BatchMax is how many publishes are under way at most.
func (s *Subject) BatchMax() int { return publishMax }

// End is last.
func (s *Subject) End(_ context.Context, _ int, last uint64) (uint64, error) { return last, nil }

// Of makes the replay a part of each record's message ID, by which the stream knows a record that comes again. What a replay that was killed has
// published may still be on its way to the stream, or wait in the server to be stored, when the next start looks what is there.
func (s *Subject) Of(replay string) { s.replay = replay }

// Begin marks the stream's end: what is there already is of others.
func (s *Subject) Begin(ctx context.Context) (uint64, error) {
	stream, err := s.js.Stream(ctx, s.stream)
	if err != nil {
		return 0, fmt.Errorf("look at stream %s: %w", s.stream, err)
	}
	s.mark = stream.CachedInfo().State.LastSeq
	return s.mark, nil
}

// Restore reads what was published after the mark, a sequence of the stream.
func (s *Subject) Restore(ctx context.Context, mark uint64) error {
	s.mark, s.there = mark, make(map[messageKey]bool)
	stream, err := s.js.Stream(ctx, s.stream)
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", s.stream, err)
	}
	// Of the leader: what is not seen here is published once more.
	last, err := broker.LastRecord(ctx, s.js, s.stream, s.prefix+".>")
	if errors.Is(err, jetstream.ErrMsgNotFound) || (err == nil && last.Sequence <= mark) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", s.stream, err)
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: mark + 1, FilterSubjects: []string{s.prefix + ".>"}, HeadersOnly: true,
	})
	if err != nil {
		return fmt.Errorf("read stream %s: %w", s.stream, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read stream %s: %w", s.stream, err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read stream %s: %w", s.stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read stream %s: %w", s.stream, err)
		}
		partition, err1 := strconv.Atoi(m.Headers().Get(HeaderPartition))
		seq, err2 := strconv.ParseUint(m.Headers().Get(HeaderPartitionSeq), 10, 64)
		if err1 == nil && err2 == nil { // else it is somebody else's
			s.there[messageKey{partition, seq}] = true
		}
		if meta.Sequence.Stream >= last.Sequence {
			return nil
		}
	}
}

// Put publishes what is not there yet and waits until the stream has all of it.
func (s *Subject) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, 0, len(batch))
	for _, r := range batch {
		if s.there[messageKey{r.Partition, r.PartitionSeq}] {
			continue
		}
		m, err := s.message(r)
		if err != nil {
			return 0, err
		}
		future, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(publishWait))
		if err != nil {
			return 0, fmt.Errorf("publish message %d of partition %d: %w", r.PartitionSeq, r.Partition, err)
		}
		futures = append(futures, future)
	}
	for _, future := range futures {
		select {
		case ack := <-future.Ok():
			s.mark = max(s.mark, ack.Sequence)
		case err := <-future.Err():
			return 0, fmt.Errorf("publish to %s: %w", future.Msg().Subject, err)
		case <-ctx.Done():
			return 0, fmt.Errorf("publish to %s: no acknowledgement: %w", future.Msg().Subject, context.Cause(ctx))
		}
	}
	return s.mark, nil
}

// message makes the record of a message.
func (s *Subject) message(e messagelog.Entry) (*nats.Msg, error) {
	view, err := message.ViewSend(e.Data)
	if err != nil {
		return nil, fmt.Errorf("message %d of partition %d: %w", e.PartitionSeq, e.Partition, err)
	}
	partition, seq := strconv.Itoa(e.Partition), strconv.FormatUint(e.PartitionSeq, 10)
	subject := topology.AppendChannel([]byte(s.prefix+"."+partition), view.ChannelType, string(view.ChannelID))
	return &nats.Msg{
		Subject: string(subject), Data: e.Data,
		Header: nats.Header{
			topology.HeaderContentType: {message.ContentType},
			HeaderPartition:            {partition},
			HeaderPartitionSeq:         {seq},
			jetstream.MsgIDHeader:      {s.replay + "/" + partition + "/" + seq},
		},
	}, nil
}
