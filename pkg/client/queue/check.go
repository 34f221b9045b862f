package queue

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// Ask is the default Check: it asks the server for the send's status (GET /message/status). It cannot tell where the server does not serve that or
// has not looked everywhere, and of sends that leave no trace: with NoPersist, or with an Expire that may have passed since the try.
func Ask(c *client.Client) Check {
	return func(ctx context.Context, s client.Send, since time.Time) (Verdict, client.Result, error) {
		if s.NoPersist || s.Expire > 0 && time.Since(since) > time.Duration(s.Expire)*time.Second/2 {
			return CannotTell, client.Result{}, nil
		}
		status, err := c.TryStatus(ctx, s)
		answered := (*client.Error)(nil)
		switch {
		case errors.As(err, &answered) && (answered.Status == http.StatusNotFound || answered.Refused() || answered.Code == "insufficient_scope"):
			return CannotTell, client.Result{}, nil // nor will it ever
		case err != nil:
			return CannotTell, client.Result{}, err
		case status.State == client.StateUnknown && status.Complete:
			return NotStored, client.Result{}, nil
		case status.State == client.StateUnknown:
			return CannotTell, client.Result{}, errors.New("the server has not looked everywhere")
		case status.MessageID == 0:
			return CannotTell, client.Result{}, errors.New("the send is in the log, and has no place yet")
		default:
			return Stored, client.Result{MessageID: status.MessageID, MessageSeq: status.MessageSeq, ClientMsgNo: s.ClientMsgNo, Replayed: true}, nil
		}
	}
}
