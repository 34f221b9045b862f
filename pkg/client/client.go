package client

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// Client sends. It is meant to be made once and used by many goroutines; its connections are kept and used again.
type Client struct {
	cfg    Config
	base   string // "": Config.URLFrom says it
	http   *http.Client
	window knownWindow
}

// New checks cfg and reports everything that is wrong with it. It opens nothing.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	base, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &Client{cfg: cfg, base: base, http: cfg.httpClient()}, nil
}

// Close closes idle connections. The client remains usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Send sends one message, and returns when it is stored and has its place in the channel. It tries again, with the same client_msg_no,
// if that can help, until Config.TriesMax, Config.ResendWithin or the end of ctx.
//
// The error is a *[SendError] around the last try's, except where the send could not be encoded: then nothing was sent.
func (c *Client) Send(ctx context.Context, s Send) (Result, error) {
	return c.send(ctx, s, c.cfg.TriesMax)
}

// Try is Send with one try only, for callers that have their own way to try again.
func (c *Client) Try(ctx context.Context, s Send) (Result, error) { return c.send(ctx, s, 1) }

func (c *Client) send(ctx context.Context, s Send, triesMax int) (Result, error) {
	if err := s.Prepare(); err != nil {
		return Result{}, err
	}
	body, err := json.Marshal(s) // once: all tries are the same to the byte
	if err != nil {
		return Result{}, fmt.Errorf("client: %w", err)
	}
	failed := &SendError{ClientMsgNo: s.ClientMsgNo}
	for {
		start, timeout, err := time.Now(), c.cfg.TryTimeout, error(nil)
		if failed.MaybeStored {
			var left time.Duration
			if left, err = c.resendable(ctx, failed.since); err == nil && left <= 0 {
				return Result{}, failed // the server may have forgotten it, and would store it again
			}
			timeout = min(timeout, left)
		}
		if err == nil {
			var r Result
			if r, err = c.trySend(ctx, s.ClientMsgNo, body, timeout); err == nil {
				return r, nil
			}
		}
		failed.add(start, err)
		if failed.Tries >= triesMax || !c.pause(ctx, failed.Tries, err) {
			return Result{}, failed
		}
	}
}

// pause waits before the next try. It returns false if there should be none: another try cannot help, or the time is not enough.
func (c *Client) pause(ctx context.Context, tries int, failure error) bool {
	if !IsRetryable(failure) || ended(ctx, failure) {
		return false
	}
	wait, ok := c.cfg.backoff(tries, failure)
	if !ok {
		return false
	}
	if deadline, given := ctx.Deadline(); given && time.Until(deadline) < wait {
		return false // the caller can use the time better
	}
	return lifecycle.Pause(ctx, wait) == nil
}

// backoff is how long to wait after so many tries. It is false where the server asks for more than Config.RetryAfterMax.
func (c Config) backoff(tries int, failure error) (time.Duration, bool) {
	wait := lifecycle.Backoff{Min: c.BackoffMin, Max: c.BackoffMax}.Random(tries)
	asked := RetryAfter(failure)
	if asked > 0 && asked > wait {
		// The server asks all callers that it refuses at one time for the same pause: this spreads their next tries.
		wait = asked + rand.N(c.BackoffMin)
	}
	return wait, asked <= c.RetryAfterMax
}
