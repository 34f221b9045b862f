package history

import (
	"bytes"
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
)

// Limits of what one request reads from the logs. Records are group commits.
const (
	recordsMax    = 1024     // of the message log
	bytesMax      = 32 << 20 // of the records of one log, or what remains of it for a block
	blockRecords  = 32       // of the message log, which is read backwards from its end
	walRecordsMax = 64       // of the write-ahead log
)

// logs finds messages that have not reached ClickHouse in the logs.
type logs struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	bucket atomic.Pointer[jetstream.KeyValue] // topology.WriterBucket, once it is open
}

// progress returns the writer's position. Everything up to it was visible in ClickHouse before it was recorded.
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

// messagesEnd is the end of a message log at the time of a read.
type messagesEnd struct {
	created time.Time // of the stream
	record            // the last record; seq is 0 if there is none
}

func (l *logs) messagesEnd(ctx context.Context, partition int) (messagesEnd, error) {
	stream, err := l.js.Stream(ctx, topology.MessagesStream(partition))
	if err != nil {
		return messagesEnd{}, fmt.Errorf("message log of partition %d: %w", partition, err)
	}
	end := messagesEnd{created: stream.CachedInfo().Created}
	end.record, _, err = l.lastOf(ctx, topology.MessagesStream(partition), topology.MessagesSubject(partition))
	return end, err
}

// wantedMessage identifies the message to find in the message log.
type wantedMessage struct {
	clientMsgNo string
	is          func(*message.Message) bool
	behind      uint64 // the partition_seq up to which the writer is done
}

// in returns the latest wanted message of a record.
func (w *wantedMessage) in(r record) (found *message.Message) {
	if !bytes.Contains(r.data, []byte(w.clientMsgNo)) {
		return nil // this test is some hundred times as fast as decoding
	}
	var view message.BatchView
	if message.ViewBatch(r.data, &view) != nil {
		return nil // not a batch; the writer reports it
	}
	for i, encoded := range view.Messages {
		var m message.Message
		if view.First+uint64(i) > w.behind && m.UnmarshalVT(encoded) == nil && w.is(&m) { // otherwise it becomes a dead letter
			found = &m
		}
	}
	return found
}

// findMessage finds the latest wanted message after the writer's position. complete reports whether it read all candidates.
func (l *logs) findMessage(ctx context.Context, partition int, progress writer.Progress, end messagesEnd, wanted wantedMessage) (found *message.Message, complete bool, err error) {
	first := uint64(1)
	if progress.StreamCreated.Equal(end.created) { // otherwise the position belongs to an earlier stream
		first, wanted.behind = max(progress.DoneRecord, 1), progress.Done
	}
	if end.seq < first {
		return nil, true, nil
	}
	// Most callers ask about a send that they have just made, so read the newest records.
	oldest := max(first, end.seq-min(end.seq, recordsMax)+1)
	complete, size, from := true, 0, end.seq+1
	for found == nil && from > oldest && size < bytesMax {
		last := from - 1
		from = max(oldest, last-min(last, blockRecords)+1)
		through, err := l.each(ctx, topology.MessagesStream(partition), topology.MessagesSubject(partition), from, last, int(last-from+1), func(r record) error {
			size += len(r.data)
			if m := wanted.in(r); m != nil {
				found = m
			}
			return nil
		})
		if err != nil {
			return nil, false, err
		}
		complete = complete && through
	}
	if found == nil && !complete {
		found = wanted.in(end.record)
	}
	return found, complete && (from == first || found != nil), nil
}

// findSend finds a wanted send in the write-ahead log after the end of the message log. complete reports whether it read all of them.
func (l *logs) findSend(ctx context.Context, partition int, end messagesEnd, wanted func(send *message.Send, unixMilli int64) bool) (found, complete bool, err error) {
	name := topology.WALStream(partition)
	stream, err := l.js.Stream(ctx, name)
	if err != nil {
		return false, false, fmt.Errorf("write-ahead log of partition %d: %w", partition, err)
	}
	state := stream.CachedInfo().State
	first := max(end.seq+1, state.FirstSeq) // earlier sends are messages already, or never will be
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
			return nil //nolint:nilerr // the sequencer skips it too
		}
		for _, send := range batch.GetSends() {
			found = found || wanted(send, r.at.UnixMilli())
		}
		return nil
	})
	return found, complete && from == first, err
}

// errNoRecord reports that no record matches.
var errNoRecord = errors.New("no such record")
