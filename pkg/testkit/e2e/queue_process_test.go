package e2e

import (
	"bufio"
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
)

// The process that TestEndToEndQueue kills is this test binary again, with these variables.
const (
	queueDirVariable  = "SENDHOUSE_TEST_QUEUE_DIR" // of the queue and of the two files below
	queueURLVariable  = "SENDHOUSE_TEST_QUEUE_URL"
	queueStopVariable = "SENDHOUSE_TEST_QUEUE_STOP" // a file: if it exists, nothing new is enqueued
	queueChannels     = 12
)

// The process appends a line to a file when Enqueue has returned, and to another when OnSent was called. A kill may cut the last line of each.
const (
	enqueuedFile = "enqueued"
	sentFile     = "sent"
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
func runQueueProcess(dir string) error {
	done, err := readLines(filepath.Join(dir, enqueuedFile))
	if err != nil {
		return err
	}
	next := make([]int, queueChannels)
	for _, line := range done {
		next[line.Channel] = max(next[line.Channel], line.N)
	}
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
		Dir: dir, Client: c, BackoffMax: time.Second,
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
	for channel := range queueChannels {
		go enqueueAll(q, channel, next[channel]+1, enqueued)
	}
	err = <-ran
	return errors.Join(err, q.Close())
}

// enqueueAll enqueues the sends of a channel one after another. What a kill may have kept from the file is enqueued again.
func enqueueAll(q *queue.Queue, channel, n int, enqueued func(queueLine) error) {
	for ; ; n++ {
		if _, err := os.Stat(os.Getenv(queueStopVariable)); err == nil {
			return
		}
		line := queueLine{Channel: channel, N: n, At: time.Now()}
		_, err := q.Enqueue(context.Background(), queuedSend(channel, n))
		if errors.Is(err, queue.ErrClosed) {
			return
		}
		if err := errors.Join(err, enqueued(line)); err != nil {
			panic(err)
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
