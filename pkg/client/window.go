package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client/internal/age"
)

// Window is what the server promises of sends that are sent again.
type Window struct {
	// Remembers: a send whose first try began less than this ago is recognized by its client_msg_no, and stored once. The server leaves a
	// margin for the time until the next try arrives. 0: the server does not say.
	Remembers time.Duration
	// Ordered: a bulk can be sent so that a send is not stored unless those of its channel before it in the bulk are.
	Ordered bool
}

// Window asks the server, once. It is for callers that try again themselves. A server that does not have the route says nothing: the
// zero Window.
func (c *Client) Window(ctx context.Context) (Window, error) {
	var a struct {
		RemembersMS int64 `json:"remembers_ms"`
		Ordered     bool  `json:"ordered_bulks"`
	}
	err := c.get(ctx, "/message/window", &a)
	if answered := (*Error)(nil); errors.As(err, &answered) && answered.Status == http.StatusNotFound {
		return Window{}, nil
	}
	if err != nil {
		return Window{}, fmt.Errorf("client: window: %w", err)
	}
	return Window{Remembers: time.Duration(max(a.RemembersMS, 0)) * time.Millisecond, Ordered: a.Ordered}, nil
}

// get makes a request without a body, and decodes its answer.
func (c *Client) get(ctx context.Context, route string, into any) error {
	res, err := c.request(ctx, outgoing{method: http.MethodGet, route: route, timeout: c.cfg.TryTimeout})
	if err != nil {
		return err
	}
	defer res.close()
	text, err := res.all()
	switch {
	case err != nil:
		return err
	case res.status != http.StatusOK:
		return res.problem(text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return &tryError{err: fmt.Errorf("the answer is no JSON object: %w: %s", err, excerpt(text))}
	}
	return nil
}

// windowTrusted is how long what the server said of its window is relied on.
const windowTrusted = 5 * time.Second

// knownWindow is what the server said last.
type knownWindow struct {
	mu sync.Mutex
	w  Window
	at time.Time
}

// resendable is how much longer a send may be tried again whose first try that may be stored began at since. The error is that of asking.
func (c *Client) resendable(ctx context.Context, since time.Time) (time.Duration, error) {
	within := c.cfg.ResendWithin
	k := &c.window
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at.IsZero() || age.Of(k.at, time.Now()) > windowTrusted {
		w, err := c.Window(ctx)
		if err != nil {
			return 0, err
		}
		k.w, k.at = w, time.Now()
	}
	switch {
	case k.w.Remembers == 0 && within == 0:
		within = resendWithinUnknown
	case k.w.Remembers > 0 && (within == 0 || k.w.Remembers < within):
		within = k.w.Remembers
	}
	return within - age.Of(since, time.Now()), nil
}

// resendWithinUnknown is for how long a server is taken to know a send if it does not say.
const resendWithinUnknown = time.Minute
