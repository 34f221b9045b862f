package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// RecordAt asks the leader of a stream for the record at a sequence.
//
// It and its neighbours are what is right where a wrong "there is none" does harm: jetstream.Stream's own GetMsg, and
// KeyValue's Get, ask whichever server of the stream hears it first (direct get), and one that is behind does not know the
// newest records. The price is that there is no answer while a leader is being elected. What is left is a leader that has been
// replaced and has not noticed yet: what hangs on the answer must be fenced all the same.
//
// The error wraps [jetstream.ErrMsgNotFound] if there is no such record. A leader that says nothing within the timeout of
// js, or until ctx ends, is [context.DeadlineExceeded].
func RecordAt(ctx context.Context, js jetstream.JetStream, stream string, seq uint64) (*jetstream.RawStreamMsg, error) {
	return askLeader(ctx, js, stream, recordRequest{Seq: seq})
}

// NextRecord is RecordAt for the first record from a sequence on that is on a subject, which may have wildcards.
func NextRecord(ctx context.Context, js jetstream.JetStream, stream string, seq uint64, subject string) (*jetstream.RawStreamMsg, error) {
	return askLeader(ctx, js, stream, recordRequest{Seq: seq, NextFor: subject})
}

// LastRecord is RecordAt for the last record on a subject, which may have wildcards.
func LastRecord(ctx context.Context, js jetstream.JetStream, stream, subject string) (*jetstream.RawStreamMsg, error) {
	return askLeader(ctx, js, stream, recordRequest{LastFor: subject})
}

// recordRequest is JetStream's request for one record, as far as it is used here (nats-server JSApiMsgGetRequest).
type recordRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
}

// recordResponse is the answer to it (nats-server JSApiMsgGetResponse).
type recordResponse struct {
	Error   *jetstream.APIError `json:"error"`
	Message *struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Header  []byte    `json:"hdrs"` // as on the wire
		Data    []byte    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
}

func askLeader(ctx context.Context, js jetstream.JetStream, stream string, request recordRequest) (*jetstream.RawStreamMsg, error) {
	encoded, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	options := js.Options()
	// A server that has just lost the lead says nothing, so a caller with time to spare gains nothing by waiting longer.
	asked, cancel := context.WithTimeout(ctx, options.DefaultTimeout)
	defer cancel()
	answer, err := js.Conn().RequestWithContext(asked, apiPrefix(options)+"STREAM.MSG.GET."+stream, encoded)
	if err != nil {
		if asked.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("ask the leader of %s: no answer within %s (there is none while one is being elected): %w", stream, options.DefaultTimeout, err)
		}
		return nil, fmt.Errorf("ask the leader of %s: %w", stream, err)
	}
	var response recordResponse
	if err := json.Unmarshal(answer.Data, &response); err != nil {
		return nil, fmt.Errorf("answer of the leader of %s: %w", stream, err)
	}
	switch {
	case response.Error != nil:
		return nil, fmt.Errorf("the leader of %s answers: %w", stream, response.Error)
	case response.Message == nil:
		return nil, fmt.Errorf("the leader of %s answers: %w", stream, errNoRecord)
	}
	m := response.Message
	record := &jetstream.RawStreamMsg{Subject: m.Subject, Sequence: m.Seq, Data: m.Data, Time: m.Time}
	if len(m.Header) > 0 {
		if record.Header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			return nil, fmt.Errorf("headers of record %d of %s: %w", m.Seq, stream, err)
		}
	}
	return record, nil
}

var errNoRecord = errors.New("neither a record nor an error")

// apiPrefix begins the subjects of requests to JetStream; its client does not tell it.
func apiPrefix(options jetstream.JetStreamOptions) string {
	switch {
	case options.Domain != "":
		return "$JS." + options.Domain + ".API."
	case options.APIPrefix != "":
		return strings.TrimSuffix(options.APIPrefix, ".") + "."
	default:
		return jetstream.DefaultAPIPrefix
	}
}
