package messagelog

import (
	"context"
	"errors"
	"net/http"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// Range reads the records from first to last that are there, and returns when it is through. Where
// subjects are given, only those; what they have at the end is found by asking.
func (l *Log) Range(ctx context.Context, first, last uint64, subjects []string, handle func(Record) error) error {
	last, err := l.lastOf(ctx, first, last, subjects)
	if err != nil || last < first {
		return err
	}
	reader, err := l.Read(ctx, first, subjects...)
	if err != nil {
		return err
	}
	defer reader.Stop()
	for {
		record, err := reader.Next(ctx)
		switch {
		case errors.Is(err, ErrQuiet):
			return nil // the last one has been deleted meanwhile
		case err != nil:
			return err
		case record.Seq > last:
			return nil
		}
		if err := handle(record); err != nil || record.Seq == last {
			return err
		}
	}
}

// Follow reads the records from first on that are there, and then those that come, until ctx ends or handle fails.
// Where subjects are given, only those. Once it has begun, it waits for a broker that is away.
func (l *Log) Follow(ctx context.Context, first uint64, subjects []string, handle func(Record) error) error {
	reader, err := l.Read(ctx, first, subjects...)
	if err != nil {
		return err
	}
	defer reader.Stop()
	for {
		record, err := reader.Next(ctx)
		switch {
		case err == nil:
			err = handle(record)
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

// away says whether an error is of a broker that does not answer now, and may again.
func away(err error) bool {
	var answer *jetstream.APIError
	if errors.As(err, &answer) {
		return answer.Code == http.StatusServiceUnavailable
	}
	return !errors.Is(err, nats.ErrConnectionClosed)
}
