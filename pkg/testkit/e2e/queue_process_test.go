package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/queue"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// The process with a queue that tests kill is this test binary again, with these variables.
const (
	queueDirVariable    = "SENDHOUSE_TEST_QUEUE_DIR"  // of the files below
	queueDiskVariable   = "SENDHOUSE_TEST_QUEUE_DISK" // of the queue, if that is not the same
	queueURLVariable    = "SENDHOUSE_TEST_QUEUE_URL"
	queueSettleVariable = "SENDHOUSE_TEST_QUEUE_SETTLE" // if it is set, the queue is emptied first: see runQueueProcess
	queueChannels       = 12
	// queueAhead is how many sends of a channel wait at most, and settledPause the pause between two of a process that settles: they bound what a
	// test of many minutes has to check.
	queueAhead   = 500
	settledPause = 20 * time.Millisecond
)

// The process appends a line to a file when Enqueue has returned, and to another when OnSent was called. A kill may cut the last line of each.
const (
	enqueuedFile = "enqueued"
	sentFile     = "sent"
	stopFile     = "stop" // if it exists, nothing new is enqueued
)

// queueLine is a line of either file.
type queueLine struct {
	Channel int       `json:"channel"`
	N       int       `json:"n"` // 1, 2, 3, … in its channel
	At      time.Time `json:"at"`
	ID      int64     `json:"id,omitempty"`
	Seq     int64     `json:"seq,omitempty"`
}

// readLines reads what is whole of a file; there may be none.
func readLines(path string) (lines []queueLine, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := bufio.NewReader(f)
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return nil, err
		}
		var line queueLine
		if json.Unmarshal(text, &line) != nil {
			continue // the one that a kill cut, with the next after it: both are done again
		}
		lines = append(lines, line)
	}
}

// queuedSend is the n-th send of a channel, always the same.
func queuedSend(channel, n int) client.Send {
	return client.Send{
		ClientMsgNo: fmt.Sprintf("q%d-%d", channel, n), FromUID: fmt.Sprintf("u%d", channel), ChannelID: fmt.Sprintf("queue-%d", channel),
		ChannelType: client.ChannelGroup, RedDot: n%2 == 0, Payload: []byte(fmt.Sprintf("%d of %d", n, channel)),
	}
}

// runQueueProcess enqueues and delivers until it is killed.
//
// A process that is killed in Enqueue has not learned whether the queue has the send. Its successor enqueues it again, under its client_msg_no, which
// is safe for as long as the server remembers the first one. A process that settles does not rely on that: before it enqueues anything, it lets the
// queue deliver all that it has, and then knows which sends were in it.
func runQueueProcess(dir string) error {
	enqueued, err := appendTo(filepath.Join(dir, enqueuedFile))
	if err != nil {
		return err
	}
	sent, err := appendTo(filepath.Join(dir, sentFile))
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{URL: os.Getenv(queueURLVariable)})
	if err != nil {
		return err
	}
	q, err := queue.Open(queue.Config{
		Dir: cmp.Or(os.Getenv(queueDiskVariable), dir), Client: c, BackoffMax: time.Second, RetryAfterMax: time.Second,
		OnSent: func(e queue.Entry, r client.Result) {
			var line queueLine
			_, err := fmt.Sscanf(e.Send.ClientMsgNo, "q%d-%d", &line.Channel, &line.N)
			line.At, line.ID, line.Seq = time.Now(), r.MessageID, r.MessageSeq
			if err := errors.Join(err, sent(line)); err != nil {
				panic(err)
			}
		},
		OnDead: func(d queue.DeadLetter) { panic(fmt.Sprintf("given up: %+v", d)) },
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- q.Run(ctx) }()
	files, pause := []string{enqueuedFile}, time.Duration(0)
	if os.Getenv(queueSettleVariable) != "" {
		files, pause = append(files, sentFile), settledPause
		if err := q.Flush(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	next := make([]int, queueChannels)
	for _, file := range files {
		done, err := readLines(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		for _, line := range done {
			next[line.Channel] = max(next[line.Channel], line.N)
		}
	}
	for channel := range queueChannels {
		go func() {
			if err := enqueueAll(ctx, q, channel, next[channel]+1, pause, enqueued); err != nil && !errors.Is(err, queue.ErrClosed) && ctx.Err() == nil {
				panic(err)
			}
		}()
	}
	err = <-ran
	return errors.Join(err, q.Close())
}

// enqueueAll enqueues the sends of a channel one after another, from the n-th on.
func enqueueAll(ctx context.Context, q *queue.Queue, channel, n int, pause time.Duration, enqueued func(queueLine) error) error {
	var ahead []*queue.Handle
	for ; ; n++ {
		if _, err := os.Stat(filepath.Join(os.Getenv(queueDirVariable), stopFile)); err == nil {
			return nil
		}
		if len(ahead) == queueAhead {
			if _, err := ahead[0].Wait(ctx); err != nil {
				return err
			}
			ahead = ahead[1:]
		}
		line := queueLine{Channel: channel, N: n, At: time.Now()}
		handles, err := q.Enqueue(ctx, queuedSend(channel, n))
		if err == nil {
			err = enqueued(line)
		}
		if err != nil {
			return err
		}
		ahead = append(ahead, handles...)
		if err := lifecycle.Pause(ctx, pause); err != nil {
			return err
		}
	}
}

// appendTo opens a file to which lines are written whole, one write each.
func appendTo(path string) (func(queueLine) error, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return func(line queueLine) error {
		text, err := json.Marshal(line)
		if err != nil {
			return err
		}
		_, err = f.Write([]byte("\n" + string(text) + "\n")) // a line that was cut before does not spoil this one
		return err
	}, nil
}
