package history

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer"
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
func (s *Service) status(_ http.ResponseWriter, r *http.Request) (answer, *api.Problem) {
	q, problem := readStatusRequest(r.URL.Query())
	if problem != nil {
		return nil, problem
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.HistoryTimeout)
	defer cancel()
	leave, problem := s.admit(ctx)
	if problem != nil {
		return nil, problem
	}
	defer leave()
	found, problem := s.find(ctx, r.Context(), &q)
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
	if q.clientMsgNo == "" {
		bad.add("client_msg_no", "is required")
	}
	bad.add("client_msg_no", message.LengthRule(q.clientMsgNo, message.ClientMsgNoBytesMax))
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

// receivers returns the uids that the parameter subscribers names, sorted, each once.
func receivers(bad *issues, values url.Values) []string {
	uids := slices.DeleteFunc(slices.Clone(values["subscribers"]), func(uid string) bool { return uid == "" })
	for _, uid := range uids {
		bad.add("subscribers", message.UIDRule(uid, 0))
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// find finds a send. doc.go explains the order of the reads.
func (s *Service) find(ctx, client context.Context, q *statusRequest) (status, *api.Problem) {
	partition := s.partitions.Of(q.channel.ID, q.channel.Type)
	progress, logErr := s.progress(ctx, partition)
	identity, stored, tableErr := s.sent(ctx, q)
	switch {
	case tableErr != nil && client.Err() == nil:
		s.tableFailed(tableErr)
	case tableErr == nil:
		s.tableWorks()
	}
	if stored {
		return status{state: stateStored, identity: identity}, nil
	}
	found := status{state: stateUnknown}
	if logErr == nil {
		found, logErr = s.findInLogs(ctx, partition, progress, q)
	}
	switch {
	case found.state == stateAccepted:
		return found, nil
	case tableErr != nil:
		return found, unavailable(ctx, client, tableErr)
	case logErr != nil:
		s.log.Debug("cannot read a status from the logs", "error", logErr, "partition", partition)
		return found, logsUnavailable(client)
	default:
		return found, nil
	}
}

// progress reads the writer's position within a third of the remaining time: NATS may hang while ClickHouse is healthy.
func (s *Service) progress(ctx context.Context, partition int) (writer.Progress, error) {
	ctx, cancel := part(ctx, 3)
	defer cancel()
	return s.logs.progress(ctx, partition)
}

// sent asks ClickHouse within half of the remaining time: it may hang while the logs have the message.
func (s *Service) sent(ctx context.Context, q *statusRequest) (clickhouse.Identity, bool, error) {
	ctx, cancel := part(ctx, 2)
	defer cancel()
	return s.table.Sent(ctx, q.channel, q.fromUID, q.clientMsgNo) //nolint:wrapcheck // a clickhouse.Error says it all
}

// part returns a context with the n-th part of ctx's remaining time.
func part(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

// findInLogs finds a message that the writer has not inserted yet.
func (s *Service) findInLogs(ctx context.Context, partition int, progress writer.Progress, q *statusRequest) (status, error) {
	wanted := func(m *message.Message) bool {
		return m.GetFromUid() == q.fromUID && m.GetClientMsgNo() == q.clientMsgNo && m.GetChannelId() == q.channel.ID && m.GetChannelType() == uint32(q.channel.Type)
	}
	live := func(unixMilli int64, expire uint32) bool {
		return expire == 0 || unixMilli+int64(expire)*1000 > s.now().UnixMilli()
	}
	// Determine the end of the message log before reading it, and read the write-ahead log from there: a message that the
	// sequencer appends in between is in one of the two.
	end, err := s.logs.messagesEnd(ctx, partition)
	if err != nil {
		return status{}, err
	}
	m, complete, err := s.logs.findMessage(ctx, partition, progress, end, wantedMessage{clientMsgNo: q.clientMsgNo, is: wanted})
	switch {
	case err != nil:
		return status{}, err
	case m != nil && live(m.AcceptedAt().UnixMilli(), m.GetExpire()):
		return status{state: stateAccepted, identity: clickhouse.Identity{MessageID: int64(m.GetMessageId()), MessageSeq: m.GetMessageSeq()}}, nil
	}
	written, walComplete, err := s.logs.findSend(ctx, partition, end, func(send *message.Send, unixMilli int64) bool {
		return send.GetFromUid() == q.fromUID && send.GetClientMsgNo() == q.clientMsgNo && send.GetChannelId() == q.channel.ID &&
			send.GetChannelType() == uint32(q.channel.Type) && !send.GetNoPersist() && live(unixMilli, send.GetExpire())
	})
	switch {
	case err != nil:
		return status{}, err
	case written:
		return status{state: stateAccepted, hint: hintNotFolded}, nil
	case complete && walComplete:
		return status{state: stateUnknown, complete: true, hint: hintUnknown}, nil
	default:
		return status{state: stateUnknown, hint: hintIncomplete}, nil
	}
}
