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
	// margin for the time until the next try arrives. 0: the server does not know it yet, for example soon after its start.
	Remembers time.Duration
	// Ordered: a bulk can be sent so that a send is not stored unless those of its channel before it in the bulk are.
	Ordered bool
}

// Window asks the server, once. It is for callers that try again themselves. A server that does not have the route is taken to remember a send for
// a minute, and not to keep the order.
func (c *Client) Window(ctx context.Context) (Window, error) {
	var a struct {
		RemembersMS int64 `json:"remembers_ms"`
		Ordered     bool  `json:"ordered_bulks"`
	}
	err := c.get(ctx, "/message/window", &a)
	if answered := (*Error)(nil); errors.As(err, &answered) && answered.Status == http.StatusNotFound {
		return Window{Remembers: age.Assumed}, nil
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

// knownWindow is what the server said last.
type knownWindow struct {
	mu    sync.Mutex
	w     Window
	asked time.Time // when; zero: never
}

// get returns it, if it can be relied on.
func (k *knownWindow) get() (w Window, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.w, !k.asked.IsZero() && age.Of(k.asked, time.Now()) <= age.WindowTrusted
}

func (k *knownWindow) set(w Window, asked time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if asked.After(k.asked) {
		k.w, k.asked = w, asked
	}
}

// resendable is how much longer a send may be tried again whose first try that may be stored began at since. The error is that of asking the server.
// Callers do not wait for each other's requests.
func (c *Client) resendable(ctx context.Context, since time.Time) (time.Duration, error) {
	w, known := c.window.get()
	if !known {
		asked := time.Now()
		var err error
		if w, err = c.Window(ctx); err != nil {
			return 0, err
		}
		if w.Remembers > 0 {
			c.window.set(w, asked)
		}
	}
	within := age.ResendWithin(w.Remembers, c.cfg.ResendWithin)
	if within == 0 {
		return 0, &tryError{err: errors.New("the server does not know yet how far back it remembers")}
	}
	return within - age.Of(since, time.Now()), nil
}
