package client

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// State is what the server knows of a send.
type State string

// The states.
const (
	// StateStored: its row is in ClickHouse.
	StateStored State = "stored"
	// StateAccepted: it is in the logs, cannot be lost, and will be in ClickHouse.
	StateAccepted State = "accepted"
	// StateUnknown: it is nowhere that was looked; see Status.Complete.
	StateUnknown State = "unknown"
)

// Status is what became of a send.
type Status struct {
	State State
	// MessageID and MessageSeq are the message's; 0 where State is StateUnknown, and for the moment in which the send is in the log and has
	// no place yet.
	MessageID  int64
	MessageSeq int64
	// Complete, of StateUnknown: the server has looked everywhere. Then the send was not accepted; or it is under way this very moment, has
	// expired since, had NoPersist, or ClickHouse refused its row.
	Complete bool
}

// Status asks what became of a send whose answer was lost. It needs the send's ClientMsgNo, FromUID, SyncOnce, and channel or Subscribers, and a token
// with the scope send or read. It tries again as Send does.
//
// The server answers from ClickHouse: one that was started without it says 404 history_not_served, an *[Error].
func (c *Client) Status(ctx context.Context, s Send) (Status, error) {
	for tries := 1; ; tries++ {
		status, err := c.TryStatus(ctx, s)
		if err == nil || tries >= c.cfg.TriesMax || !c.pause(ctx, tries, err) {
			return status, err
		}
	}
}

// TryStatus is Status with one try only.
func (c *Client) TryStatus(ctx context.Context, s Send) (Status, error) {
	query := url.Values{
		"client_msg_no": {s.ClientMsgNo}, "from_uid": {s.FromUID}, "channel_id": {s.ChannelID}, "channel_type": {strconv.Itoa(int(s.ChannelType))},
	}
	if s.SyncOnce {
		query.Set("sync_once", "1")
	}
	if s.ChannelID == "" && len(s.Subscribers) > 0 {
		query.Set("channel_id", message.TemporaryChannel(message.Receivers(slices.Clone(s.Subscribers))))
		query.Set("channel_type", strconv.Itoa(int(ChannelTemporary)))
	}
	var a struct {
		answerJSON
		State    State `json:"state"`
		Complete bool  `json:"complete"`
	}
	err := c.get(ctx, "/message/status?"+query.Encode(), &a)
	switch {
	case err != nil:
	case a.State != StateStored && a.State != StateAccepted && a.State != StateUnknown:
		err = &tryError{err: fmt.Errorf("the answer has no state that is known: %q", a.State)}
	case a.ClientMsgNo != s.ClientMsgNo:
		err = &tryError{err: fmt.Errorf("the answer is about another send: client_msg_no %q", a.ClientMsgNo)}
	default:
		return Status{State: a.State, MessageID: a.MessageID, MessageSeq: a.MessageSeq, Complete: a.Complete}, nil
	}
	return Status{}, fmt.Errorf("client: status of %s: %w", s.ClientMsgNo, err)
}
