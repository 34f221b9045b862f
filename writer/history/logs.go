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

// How far one question looks into the logs. Records are group commits.
const (
	recordsMax    = 1024     // of the message log
	bytesMax      = 32 << 20 // of the records of one log, and what is left of a block
	blockRecords  = 32       // of the message log, which is read back from its end
	walRecordsMax = 64       // of the write-ahead log
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
	created time.Time // of the stream
	record            // the last; seq is 0 if there is none
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

// wantedMessage is what is looked for in the message log.
type wantedMessage struct {
	clientMsgNo string
	is          func(*message.Message) bool
	behind      uint64 // the partition_seq up to which the writer is done
}

// in gives the latest wanted message of a record.
func (w *wantedMessage) in(r record) (found *message.Message) {
	if !bytes.Contains(r.data, []byte(w.clientMsgNo)) {
		return nil // this is some hundred times as fast as decoding
	}
	var view message.BatchView
	if message.ViewBatch(r.data, &view) != nil {
		return nil // whose it is, the writer complains of it
	}
	for i, encoded := range view.Messages {
		var m message.Message
		if view.First+uint64(i) > w.behind && m.UnmarshalVT(encoded) == nil && w.is(&m) { // else the writer will make a dead letter of it
			found = &m
		}
	}
	return found
}

// findMessage looks for the latest wanted message behind what the writer has done. complete says that all were looked at that could be it.
func (l *logs) findMessage(ctx context.Context, partition int, progress writer.Progress, end messagesEnd, wanted wantedMessage) (found *message.Message, complete bool, err error) {
	first := uint64(1)
	if progress.StreamCreated.Equal(end.created) { // else it is of a stream that is gone
		first, wanted.behind = max(progress.DoneRecord, 1), progress.Done
	}
	if end.seq < first {
		return nil, true, nil
	}
	// Who asks has mostly just sent it, so the newest records are those that are looked at.
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

// findSend looks for a wanted send in the write-ahead log behind the end of the message log. complete says that all of them were looked at.
func (l *logs) findSend(ctx context.Context, partition int, end messagesEnd, wanted func(send *message.Send, unixMilli int64) bool) (found, complete bool, err error) {
	name := topology.WALStream(partition)
	stream, err := l.js.Stream(ctx, name)
	if err != nil {
		return false, false, fmt.Errorf("write-ahead log of partition %d: %w", partition, err)
	}
	state := stream.CachedInfo().State
	first := max(end.seq+1, state.FirstSeq) // up to the end of the message log every send has become a message or none
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
		for _, send := range batch.GetSends() {
			found = found || wanted(send, r.at.UnixMilli())
		}
		return nil
	})
	return found, complete && from == first, err
}

// errNoRecord says that there is none that fits.
var errNoRecord = errors.New("no such record")
