package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// defineTimeout bounds the definition of all channels.
const defineTimeout = 2 * time.Minute

// define gives the channels that the load goes to, and those who send, policies of their own, so that every
// send has something to be decided by. The lists name others: every send stays allowed.
func define(o options, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), defineTimeout)
	defer cancel()
	post := func(route, body string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+route, bytes.NewReader([]byte(body)))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // it was only read
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s: %s", route, response.Status, answer)
		}
		return err
	}
	for n := range o.defined {
		body := fmt.Sprintf(`{"channel_id":"c%d","channel_type":1,"uids":["blocked-1-%d","blocked-2-%d","blocked-3-%d"]}`, n+1, n, n, n)
		if err := post("/channel/blacklist_add", body); err != nil {
			return fmt.Errorf("define channel c%d: %w", n+1, err)
		}
	}
	if o.defined == 0 {
		return nil
	}
	for n := range senders {
		if err := post("/channel", fmt.Sprintf(`{"channel_id":"u%d","channel_type":1}`, n)); err != nil {
			return fmt.Errorf("define sender u%d: %w", n, err)
		}
	}
	return post("/user/systemuids_add", `{"uids":["notice"]}`)
}

// senders is how many there are in send.lua.
const senders = 97
