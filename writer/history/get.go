package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// batchRecords and batchBytes limit one request to a server.
	batchRecords = 512
	batchBytes   = 1 << 20
	// getTimeout limits the wait for one response.
	getTimeout = 2 * time.Second
)

// record is a record of a log.
type record struct {
	seq  uint64
	at   time.Time
	data []byte
}

// getRequest is JetStream's request for records of a stream, with the fields used here (nats-server JSApiMsgGetRequest, ADR-31).
type getRequest struct {
	Seq      uint64 `json:"seq,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

// each visits the records of a subject between two sequences, within recordsMax and bytesMax; complete reports whether it
// reached the end. The first server to respond serves the request, so each stops early if that server lags.
func (l *logs) each(ctx context.Context, stream, subject string, from, to uint64, recordsMax int, visit func(record) error) (complete bool, err error) {
	size := 0
	for records := 0; records < recordsMax && size < bytesMax; {
		got := 0
		err := l.batch(ctx, stream, getRequest{Seq: from, NextFor: subject, Batch: min(batchRecords, recordsMax-records), MaxBytes: batchBytes}, func(r record) error {
			got++
			records, size, from = records+1, size+len(r.data), r.seq+1
			return visit(r)
		})
		switch {
		case err != nil:
			return false, err
		case from > to:
			return true, nil
		case got == 0:
			return false, nil
		}
	}
	return false, nil
}

// batch requests consecutive records and visits them. It uses the direct API, which reads without a consumer.
func (l *logs) batch(ctx context.Context, stream string, request getRequest, visit func(record) error) error {
	encoded, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	inbox := l.nc.NewInbox()
	answers, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	defer func() { _ = answers.Unsubscribe() }() // at the latest, it ends with the connection
	if err := l.nc.PublishRequest(jetstream.DefaultAPIPrefix+"DIRECT.GET."+stream, inbox, encoded); err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	for {
		r, err := l.next(ctx, answers)
		switch {
		case errors.Is(err, errNoRecord):
			return nil
		case err != nil:
			return fmt.Errorf("read %s from %d: %w", stream, request.Seq, err)
		}
		if err := visit(r); err != nil {
			return err
		}
	}
}

// next returns the next record of a batch, or errNoRecord at its end.
func (l *logs) next(ctx context.Context, answers *nats.Subscription) (record, error) {
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	msg, err := answers.NextMsgWithContext(ctx)
	if err != nil {
		return record{}, err //nolint:wrapcheck // batch says what was being done
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
	case strconv.Itoa(http.StatusNoContent), strconv.Itoa(http.StatusNotFound): // the end of the batch; no match
		return record{}, errNoRecord
	default: // 503: no server answers
		return record{}, fmt.Errorf("the server responded %s %s", status, msg.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return record{}, fmt.Errorf("sequence of a record: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, msg.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return record{}, fmt.Errorf("time of a record: %w", err)
	}
	return record{seq: seq, at: at, data: msg.Data}, nil
}
