package messagelog

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// ErrTailLost says that a log ends before a record that it had: a server that was killed may lose what it had not written to disk yet, and
// the sequencer derives that again from the write-ahead log, soon.
var ErrTailLost = errors.New("the message log has lost its tail, which is being derived again: retry in a moment")

// Range reads the messages from first to last that are there, and returns when it is through. Where channels are given, only theirs.
// The log must have had the last one: if it ends before that, and it was not deleted, the error wraps [ErrTailLost].
func (l *Log) Range(ctx context.Context, first, last uint64, channels []Channel, handle func(Entry) error) error {
	if last < first {
		return nil
	}
	records, err := l.Records(ctx)
	if err != nil || (records.Last > 0 && records.First > records.Last) { // all are deleted
		return err
	}
	reader, err := l.Read(ctx, first)
	if err != nil {
		return err
	}
	defer reader.Stop()
	handle = Only(channels, handle)
	for {
		entry, err := reader.Next(ctx)
		switch {
		case errors.Is(err, ErrQuiet):
			if through, err := reader.through(ctx, records.Last, last); through || err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case entry.PartitionSeq > last:
			return nil
		}
		if err = handle(entry); err != nil || entry.PartitionSeq == last {
			return err
		}
	}
}

// rangeRecords is Range between two stream sequences.
func (l *Log) rangeRecords(ctx context.Context, first, last uint64, channels []Channel, handle func(Entry) error) error {
	last, err := l.existing(ctx, first, last)
	if err != nil || last < first {
		return err
	}
	reader, err := l.ReadRecords(ctx, first)
	if err != nil {
		return err
	}
	defer reader.Stop()
	for {
		record, err := reader.NextRecord(ctx)
		switch {
		case errors.Is(err, ErrQuiet):
			if through, err := reader.through(ctx, last, 0); through || err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case record.Seq > last:
			return nil
		}
		for i := range record.Batch.Messages {
			if entry := record.Entry(i); of(channels, entry) {
				if err := handle(entry); err != nil {
					return err
				}
			}
		}
		if record.Seq == last {
			return nil
		}
	}
}

// Only gives handle those of the channels or, with none, all. Those that are chosen have memory of their own: a message that is kept would
// hold on to all of its record, hundreds of KiB, and where few are chosen each may be of another one.
func Only(channels []Channel, handle func(Entry) error) func(Entry) error {
	if len(channels) == 0 {
		return handle
	}
	return func(e Entry) error {
		if !of(channels, e) {
			return nil
		}
		e.Data = bytes.Clone(e.Data)
		return handle(e)
	}
}

// of reports whether a message is of one of the channels; without channels, of any. One that cannot be decoded is of all of them:
// its reader reports it.
func of(channels []Channel, e Entry) bool {
	if len(channels) == 0 {
		return true
	}
	view, err := message.ViewSend(e.Data)
	return err != nil || slices.ContainsFunc(channels, func(c Channel) bool {
		return c.Type == view.ChannelType && c.ID == string(view.ChannelID)
	})
}

// Follow reads the messages from a partition_seq on that are there, and then those that come, until ctx ends or handle fails.
// Where channels are given, only theirs. Once it has begun, it waits for a broker that is away.
func (l *Log) Follow(ctx context.Context, first uint64, channels []Channel, handle func(Entry) error) error {
	reader, err := l.Read(ctx, first)
	if err != nil {
		return err
	}
	defer reader.Stop()
	handle = Only(channels, handle)
	for {
		entry, err := reader.Next(ctx)
		switch {
		case err == nil:
			err = handle(entry)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrQuiet):
			continue
		case away(err):
			err = lifecycle.Pause(ctx, reader.patience)
		}
		if err != nil {
			return err
		}
	}
}

// away reports whether an error is of a broker that does not answer now, and may again.
func away(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == http.StatusServiceUnavailable
	}
	return !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, message.ErrNotAMessageBatch)
}
