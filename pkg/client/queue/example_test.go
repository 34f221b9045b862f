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
	ran := make(chan error, 1)
	go func() { ran <- q.Run(ctx) }()

	for _, no := range []string{"first", "second", "third"} {
		s := client.Send{ClientMsgNo: no, FromUID: "alice", ChannelID: "queue-example", ChannelType: client.ChannelGroup, Payload: []byte(`{"type":1,"content":"hi"}`)}
		if no == "second" {
			s.TagKey = string(make([]byte, 200)) // longer than the server takes
		}
		if err := q.Enqueue(&s); err != nil { // when it returns, the send is on disk
			fmt.Println(err)
			return
		}
	}
	if err := q.Flush(ctx); err != nil {
		fmt.Println(err)
		return
	}
	stop()
	if err := <-ran; err != nil {
		fmt.Println(err)
		return
	}
	if err := q.Close(); err != nil {
		fmt.Println(err)
		return
	}
	// Output:
	// sent first as 1
	// gave up second refused invalid_request
	// sent third as 2
}
