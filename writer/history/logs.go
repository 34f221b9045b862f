package history

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// How far one question looks into the logs.
const (
	recordsMax    = 4096    // messages of one channel
	bytesMax      = 8 << 20 // of the records of one log
	walRecordsMax = 64      // group commits
)

// logs looks into the logs behind ClickHouse.
type logs struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	bucket atomic.Pointer[jetstream.KeyValue] // topology.WriterBucket, once it has been found
}

// progress is how far the writer has come. Everything up to there was in ClickHouse, and could be seen, before it was recorded.
func (l *logs) progress(ctx context.Context, partition int) (writer.Progress, error) {
	bucket := l.bucket.Load()
	if bucket == nil {
		kv, err := l.js.KeyValue(ctx, topology.WriterBucket)
		if err != nil {
			return writer.Progress{}, fmt.Errorf("key-value bucket %s: %w", topology.WriterBucket, err)
		}
		bucket = &kv
		l.bucket.Store(bucket)
	}
	p, err := writer.ReadProgress(ctx, *bucket, partition)
	if err != nil {
		return writer.Progress{}, fmt.Errorf("partition %d: %w", partition, err)
	}
	return p, nil
}

// messagesEnd is where a message log ended when it was looked at.
type messagesEnd struct {
	created  time.Time // of the stream
	seq      uint64    // of the last record, 0 if there is none
	walSeq   uint64    // what the last record was made from; 0 if there is none
	walIndex uint32
}

func (l *logs) messagesEnd(ctx context.Context, partition int) (messagesEnd, error) {
	stream, err := l.js.Stream(ctx, topology.MessagesStream(partition))
	if err != nil {
		return messagesEnd{}, fmt.Errorf("message log of partition %d: %w", partition, err)
	}
	end := messagesEnd{created: stream.CachedInfo().Created}
	last, ok, err := l.lastOf(ctx, topology.MessagesStream(partition), topology.MessagesSubjects(partition))
	if err != nil || !ok {
		return end, err
	}
	var m message.Message
	if err := m.UnmarshalVT(last.data); err != nil {
		return end, fmt.Errorf("record %d of %s: %w", last.seq, topology.MessagesStream(partition), err)
	}
	end.seq, end.walSeq, end.walIndex = last.seq, m.GetWalSeq(), m.GetWalIndex()
	return end, nil
}

// findMessage looks for the latest wanted message of a channel behind what the writer has done. complete says that all of them were looked at.
func (l *logs) findMessage(ctx context.Context, partition int, channel clickhouse.Channel, progress writer.Progress, end messagesEnd, wanted func(*message.Message) bool) (found *message.Message, complete bool, err error) {
	stream, subject := topology.MessagesStream(partition), string(topology.AppendMessageSubject(nil, partition, channel.Type, channel.ID))
	last, ok, err := l.lastOf(ctx, stream, subject)
	done := progress.Done
	if !progress.StreamCreated.Equal(end.created) {
		done = 0 // of a stream that is gone
	}
	if err != nil || !ok || last.seq <= done {
		return nil, err == nil, err
	}
	complete, err = l.each(ctx, stream, subject, done+1, last.seq, recordsMax, func(r record) error {
		var m message.Message
		if err := m.UnmarshalVT(r.data); err != nil {
			return nil //nolint:nilerr // the writer will make a dead letter of it; it is not what is looked for
		}
		if wanted(&m) {
			found = &m
		}
		return nil
	})
	if found == nil && err == nil && !complete {
		// Who asks has mostly just sent it.
		var m message.Message
		if m.UnmarshalVT(last.data) == nil && wanted(&m) {
			found = &m
		}
	}
	return found, complete, err
}

// findSend looks for a wanted send in the write-ahead log behind the end of the message log. complete says that all of them were looked at.
func (l *logs) findSend(ctx context.Context, partition int, end messagesEnd, wanted func(send *message.Send, unixMilli int64) bool) (found, complete bool, err error) {
	name := topology.WALStream(partition)
	stream, err := l.js.Stream(ctx, name)
	if err != nil {
		return false, false, fmt.Errorf("write-ahead log of partition %d: %w", partition, err)
	}
	state := stream.CachedInfo().State
	first := max(end.walSeq, state.FirstSeq, 1)
	if state.LastSeq < first {
		return false, true, nil
	}
	from := first
	if state.LastSeq-first >= walRecordsMax {
		from = state.LastSeq - walRecordsMax + 1
	}
	complete, err = l.each(ctx, name, topology.WALSubject(partition), from, state.LastSeq, walRecordsMax, func(r record) error {
		var batch message.SendBatch
		if err := batch.UnmarshalVT(r.data); err != nil {
			return nil //nolint:nilerr // the sequencer passes over it, too
		}
		for i, send := range batch.GetSends() {
			// Up to the last message's own place everything has become one.
			if (r.seq != end.walSeq || uint32(i) > end.walIndex) && wanted(send, r.at.UnixMilli()) {
				found = true
			}
		}
		return nil
	})
	return found, complete && from == first, err
}

// errNoRecord says that there is none that fits.
var errNoRecord = errors.New("no such record")
