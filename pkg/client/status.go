package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
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

// Status asks what became of a send whose answer was lost. It needs the send's ClientMsgNo, FromUID, channel and SyncOnce, and a token with the
// scope send or read. It tries again as Send does.
//
// The server answers from ClickHouse: one that was started without it says 404 history_not_served, an *[Error].
func (c *Client) Status(ctx context.Context, s Send) (Status, error) {
	query := url.Values{
		"client_msg_no": {s.ClientMsgNo}, "from_uid": {s.FromUID}, "channel_id": {s.ChannelID}, "channel_type": {strconv.Itoa(int(s.ChannelType))},
	}
	if s.SyncOnce {
		query.Set("sync_once", "1")
	}
	for tries := 1; ; tries++ {
		status, err := c.tryStatus(ctx, "/message/status?"+query.Encode(), s.ClientMsgNo)
		if err == nil {
			return status, nil
		}
		if tries >= c.cfg.TriesMax || !c.pause(ctx, tries, err) {
			return Status{}, fmt.Errorf("client: status of %s: %w", s.ClientMsgNo, err)
		}
	}
}

func (c *Client) tryStatus(ctx context.Context, route, clientMsgNo string) (Status, error) {
	res, err := c.request(ctx, c.cfg.TryTimeout, http.MethodGet, route, "", nil)
	if err != nil {
		return Status{}, err
	}
	defer res.close()
	text, err := res.all()
	switch {
	case err != nil:
		return Status{}, err
	case res.status != http.StatusOK:
		return Status{}, res.problem(text)
	}
	var a struct {
		answerJSON
		State    State `json:"state"`
		Complete bool  `json:"complete"`
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return Status{}, &tryError{err: fmt.Errorf("the answer is no JSON object: %w: %s", err, excerpt(text))}
	}
	switch {
	case a.State != StateStored && a.State != StateAccepted && a.State != StateUnknown:
		return Status{}, &tryError{err: fmt.Errorf("the answer has no state that is known: %s", excerpt(text))}
	case a.ClientMsgNo != clientMsgNo:
		return Status{}, &tryError{err: fmt.Errorf("the answer is about another send: client_msg_no %q", a.ClientMsgNo)}
	}
	return Status{State: a.State, MessageID: a.MessageID, MessageSeq: a.MessageSeq, Complete: a.Complete}, nil
}
