package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// prepareTimeout bounds what is done to a Sendhouse before the load.
	prepareTimeout = 5 * time.Minute
	// senders is how many there are in send.lua.
	senders = 97
	// fillBulk and fillConcurrency say how channels are filled: in large requests, a few at a time.
	fillBulk        = 1000
	fillConcurrency = 4
)

// define makes policies for the channels that the load goes to, and for those who send, so that every
// send has something to be decided by. The lists name others: every send stays allowed.
func define(ctx context.Context, channels int, url string) error {
	if channels == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	for n := range channels {
		body := fmt.Sprintf(`{"channel_id":"c%d","channel_type":1,"uids":["blocked-1-%d","blocked-2-%d","blocked-3-%d"]}`, n+1, n, n, n)
		if _, err := post(ctx, url+"/channel/blacklist_add", "application/json", body); err != nil {
			return fmt.Errorf("define channel c%d: %w", n+1, err)
		}
	}
	for n := range senders {
		if _, err := post(ctx, url+"/channel", "application/json", fmt.Sprintf(`{"channel_id":"u%d","channel_type":1}`, n)); err != nil {
			return fmt.Errorf("define sender u%d: %w", n, err)
		}
	}
	_, err := post(ctx, url+"/user/systemuids_add", "application/json", `{"uids":["notice"]}`)
	return err
}

// fill sends one message to each channel that send.lua draws from: what is measured
// then does not depend on how many of them the load happens to reach.
func fill(ctx context.Context, channels int, url string) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillConcurrency)
	for first := 1; first <= channels && ctx.Err() == nil; first += fillBulk {
		count := min(fillBulk, channels-first+1)
		group.Go(func() error { return fillSome(ctx, first, count, url) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("fill channels: %w", err)
	}
	return nil
}

func fillSome(ctx context.Context, first, count int, url string) error {
	var body strings.Builder
	for channel := first; channel < first+count; channel++ {
		fmt.Fprintf(&body, `{"from_uid":"u%d","channel_id":"c%d","channel_type":1,"payload":"eyJ0eXBlIjoxLCJjb250ZW50IjoiZmlyc3QifQ=="}`+"\n", channel%senders, channel)
	}
	answer, err := post(ctx, url+"/message/sendbulk", "application/x-ndjson", body.String())
	if err != nil {
		return err
	}
	if accepted := bytes.Count(answer, []byte(`"status":200`)); accepted != count {
		return fmt.Errorf("%d of %d sends were accepted: %.300s", accepted, count, answer)
	}
	return nil
}
