package history

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Limits of what one request reads from the write-ahead log. Records are group commits.
const (
	walRecordsMax = 64
	bytesMax      = 32 << 20
)

// logs finds sends in the write-ahead log that are not in the message log yet.
type logs struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// findSend finds a wanted send in the write-ahead log after a record. complete reports whether it read all of them.
func (l *logs) findSend(ctx context.Context, partition int, after uint64, wanted func(send *message.Send, unixMilli int64) bool) (found, complete bool, err error) {
	name := topology.WALStream(partition)
	stream, err := l.js.Stream(ctx, name)
	if err != nil {
		return false, false, fmt.Errorf("write-ahead log of partition %d: %w", partition, err)
	}
	state := stream.CachedInfo().State
	first := max(after+1, state.FirstSeq)
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
