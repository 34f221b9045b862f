package history

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// The states of a send.
const (
	// stateStored: its row is in ClickHouse.
	stateStored = "stored"
	// stateAccepted: it is in the logs and will reach ClickHouse.
	stateAccepted = "accepted"
	// stateUnknown: it was not found.
	stateUnknown = "unknown"
)

// The explanations of the states.
const (
	hintNotFolded  = "it is in the write-ahead log; its ID and sequence number are not known yet"
	hintUnknown    = "it was not accepted, has expired, or is on its way; sending it again with the same client_msg_no is safe"
	hintIncomplete = "ClickHouse is too far behind the logs for all of them to be looked at, so it may have been accepted; " +
		"sending it again with the same client_msg_no is safe within the deduplication window of the first time"
)

// status is what is known of a send.
type status struct {
	state    string
	identity clickhouse.Identity
	complete bool // for unknown: every place was read
	hint     string
}

// statusRequest identifies a send.
type statusRequest struct {
	named
	fromUID, clientMsgNo string
}

// status serves GET /message/status.
func (s *Service) status(_ http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	q, problem := readStatusRequest(r.URL.Query())
	if problem != nil {
		return nil, problem
	}
	found, problem := reading(s, r, func(ctx, client context.Context) (status, *api.Problem) { return s.find(ctx, client, &q) })
	if problem != nil {
		return nil, problem
	}
	s.metrics.states.WithLabelValues(found.state).Inc()
	return appendStatus(nil, &q, found), nil
}

// readStatusRequest parses and validates the parameters.
func readStatusRequest(values url.Values) (statusRequest, *api.Problem) {
	var bad issues
	utf8Only(&bad, values, "client_msg_no", "from_uid", "channel_id", "subscribers")
	q := statusRequest{fromUID: values.Get("from_uid"), clientMsgNo: values.Get("client_msg_no")}
	bad.add("client_msg_no", keyRule(q.clientMsgNo))
	command := values.Get("sync_once")
	if command != "" && command != "0" && command != "1" {
		bad.add("sync_once", "must be 0 or 1")
	}
	fields := channelFields{
		uidField: "from_uid", uid: q.fromUID, id: values.Get("channel_id"), typeGiven: values.Get("channel_type") != "", channelType: typeOf(values), command: command == "1",
	}
	if subscribers := receivers(&bad, values); len(subscribers) > 0 && fields.id == "" {
		// As in a send: the receivers name a temporary channel, and only a command has receivers.
		if command == "0" {
			bad.add("sync_once", "must be 1 if subscribers name the channel")
		}
		fields.id, fields.typeGiven, fields.channelType, fields.command = message.TemporaryChannel(subscribers), true, int64(message.ChannelTemporary), true
	}
	q.channel, q.shown = canonical(&bad, fields)
	q.shown = strings.TrimSuffix(q.shown, message.CommandSuffix) // as the send named it, or its answer
	return q, bad.problem()
}

// find finds a send. It takes the tail before it asks ClickHouse: see rows.
func (s *Service) find(ctx, client context.Context, q *statusRequest) (status, *api.Problem) {
	l := s.latestByNo(ctx, q.channel, q.clientMsgNo, func(m *message.Message) bool { return m.GetFromUid() == q.fromUID }, func(send *message.Send) bool {
		return isOf(send, q.channel) && send.GetFromUid() == q.fromUID && send.GetClientMsgNo() == q.clientMsgNo
	})
	row := l.row()
	asking, cancel := ctx, context.CancelFunc(func() {})
	if row != nil { // ClickHouse may hang, and is not needed
		asking, cancel = part(ctx, 2)
	}
	defer cancel()
	identity, stored, err := s.table.Sent(asking, q.channel, q.fromUID, q.clientMsgNo)
	if err == nil {
		s.tableWorks()
	} else if client.Err() == nil {
		s.tableFailed(err)
	}
	switch {
	case stored:
		return status{state: stateStored, identity: identity}, nil
	case row != nil:
		return status{state: stateAccepted, identity: clickhouse.Identity{MessageID: row.MessageID, MessageSeq: row.MessageSeq}}, nil
	case l.err == nil && l.unfolded:
		return status{state: stateAccepted, hint: hintNotFolded}, nil
	case err != nil:
		return status{}, unavailable(ctx, client, err)
	case l.err != nil:
		return status{}, logsUnavailable(client)
	case l.certain():
		return status{state: stateUnknown, complete: true, hint: hintUnknown}, nil
	default:
		return status{state: stateUnknown, hint: hintIncomplete}, nil
	}
}
