package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/client"
)

func ExampleClient_Send() {
	c, err := client.New(client.Config{URL: house.URL()}) // for example http://localhost:5001
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx := context.Background()
	s := client.Send{
		FromUID: "user123", ChannelID: "group123", ChannelType: client.ChannelGroup,
		ClientMsgNo: "order-4711-confirmed", // a key of your own; without one a UUID is made
		Payload:     []byte(`{"type":1,"content":"Hello"}`),
	}
	first, err := c.Send(ctx, s)
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := c.Send(ctx, s) // as after a crash: it is the same message
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(first.MessageSeq, first.Replayed)
	fmt.Println(again.MessageSeq, again.Replayed, again.MessageID == first.MessageID)
	// Output:
	// 1 false
	// 1 true true
}

func ExampleClient_SendBulk() {
	c, err := client.New(client.Config{URL: house.URL()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	outcomes, err := c.SendBulk(context.Background(), []client.Send{
		{FromUID: "alice", ChannelID: "lunch", ChannelType: client.ChannelGroup, Payload: []byte(`{"type":1,"content":"Hungry?"}`)},
		{FromUID: "alice", ChannelID: "no group has this name", ChannelType: client.ChannelGroup, Payload: []byte(`{"type":1,"content":"?"}`)},
		{FromUID: "bob", ChannelID: "lunch", ChannelType: client.ChannelGroup, Payload: []byte(`{"type":1,"content":"Yes."}`)},
	})
	fmt.Println(err != nil)
	for _, o := range outcomes {
		answered := (*client.Error)(nil)
		switch {
		case o.Err == nil:
			fmt.Println("message", o.Result.MessageSeq)
		case errors.As(o.Err, &answered):
			fmt.Println(answered.Status, answered.Code, answered.Field)
		}
	}
	// Output:
	// true
	// message 1
	// 400 invalid_request channel_id
	// message 2
}

func ExampleError() {
	c, err := client.New(client.Config{URL: house.URL()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.Send(context.Background(), client.Send{
		FromUID: "alice", ChannelID: "lunch", ChannelType: client.ChannelGroup, Payload: []byte(strings.Repeat("x", 600_000)),
	})
	answered := (*client.Error)(nil)
	if errors.As(err, &answered) {
		fmt.Println(answered.Status, answered.Code, answered.Field)
	}
	fmt.Println(client.IsRefused(err), client.IsRetryable(err), client.MaybeStored(err))
	// Output:
	// 413 too_large payload
	// true false false
}
