package queue_test

import (
	"context"
	"fmt"
	"os"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/queue"
)

func Example() {
	dir, err := os.MkdirTemp("", "queue-*") // in earnest a folder that stays
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := client.New(client.Config{URL: house.URL()}) // for example http://localhost:5001
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	q, err := queue.Open(queue.Config{
		Dir: dir, Client: c,
		OnSent: func(e queue.Entry, r client.Result) { fmt.Println("sent", e.Send.ClientMsgNo, "as", r.MessageSeq) },
		OnDead: func(d queue.DeadLetter) { fmt.Println("gave up", d.Send.ClientMsgNo, d.Reason, d.Code) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { _ = q.Run(ctx) }() // its error is also Close's

	hi := client.Send{FromUID: "alice", ChannelID: "queue-example", ChannelType: client.ChannelGroup, Payload: []byte(`{"type":1,"content":"hi"}`)}
	first, second, third := hi, hi, hi
	first.ClientMsgNo, second.ClientMsgNo, third.ClientMsgNo = "first", "first", "third"
	second.Payload = []byte("another message with the same number")
	handles, err := q.Enqueue(ctx, first, second, third) // when it returns, all are on disk
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := handles[2].Wait(ctx) // or ignore the handles
	fmt.Println("third is", result.MessageSeq, err)
	if err := q.Close(); err != nil {
		fmt.Println(err)
		return
	}
	// Unordered output:
	// sent first as 1
	// gave up first refused client_msg_no_conflict
	// sent third as 2
	// third is 2 <nil>
}
