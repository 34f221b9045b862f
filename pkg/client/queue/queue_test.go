package queue

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

func TestDeliversInOrder(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"one by one": 1, "in bulk": 50} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			deliverInOrder(t, most)
		})
	}
}

func deliverInOrder(t *testing.T, most int) {
	b := setup(t, func(c *Config) { c.BatchItemsMax = most })
	var turn atomic.Int64
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool { // every third request goes wrong, in one way or another
		switch turn.Add(1) % 12 {
		case 0:
			return says(503, "no_answer")(w, s)
		case 3:
			return says(503, "overloaded")(w, s)
		case 6:
			b.server.store(s) // stored, and the answer is lost
			panic(http.ErrAbortHandler)
		case 9:
			return says(500, "internal")(w, s)
		default:
			return false
		}
	})
	b.run()
	const channels, each = 8, 40
	var producers sync.WaitGroup
	for c := range channels {
		producers.Go(func() {
			for _, no := range numbers(0, each) {
				if _, err := b.Enqueue(t.Context(), groupSend(fmt.Sprint(c), no)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	producers.Wait()
	b.flush()
	for c := range channels {
		require.Equal(t, numbers(0, each), b.server.got(fmt.Sprint(c)))
	}
	require.Len(t, b.sentSoFar(), channels*each)
	requireEmpty(t, b.Queue)
	b.end()
}

func TestSurvivesRestart(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.enqueue("a", numbers(0, 5)...)
	b.enqueue("b", numbers(0, 3)...)
	before := b.Stats()
	require.Equal(t, 8, before.Entries)
	require.Equal(t, 2, before.Channels)
	require.NoError(t, b.Queue.Close())
	require.NoError(t, b.Queue.Close(), "twice is harmless")
	_, err := b.Enqueue(t.Context(), groupSend("a", "late"))
	require.ErrorIs(t, err, ErrClosed)
	b.open()
	after := b.Stats()
	require.Positive(t, after.Oldest)
	before.Oldest, after.Oldest = 0, 0
	require.Equal(t, before, after)
	b.enqueue("a", "no-0005")
	b.crash()
	b.enqueue("a", "no-0006")
	b.run()
	b.flush()
	require.Equal(t, numbers(0, 7), b.server.got("a"))
	require.Equal(t, numbers(0, 3), b.server.got("b"))
	require.ErrorIs(t, b.Run(t.Context()), ErrRunTwice)
	b.end()
	b.open()
	requireEmpty(t, b.Queue)
}

// Sends of the largest size and with the longest keys survive a restart, and are delivered as they are.
func TestLargestSends(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var keys []string
	for _, n := range []int{1, 128, 129, 255, 256} {
		one := groupSend("g", strings.Repeat("k", n))
		one.StreamNo, one.TagKey, one.Payload = strings.Repeat("s", 256), strings.Repeat("t", 256), bytes.Repeat([]byte{byte(n)}, 512<<10)
		_, err := b.Enqueue(t.Context(), one)
		require.NoError(t, err)
		keys = append(keys, one.ClientMsgNo)
	}
	b.server.failing(func(_ http.ResponseWriter, s client.Send) bool {
		if want := bytes.Repeat([]byte{byte(len(s.ClientMsgNo))}, 512<<10); !bytes.Equal(want, s.Payload) || len(s.StreamNo) != 256 || len(s.TagKey) != 256 {
			t.Errorf("%d bytes of payload, %d of stream_no, %d of tag_key: not what was enqueued", len(s.Payload), len(s.StreamNo), len(s.TagKey))
		}
		return false
	})
	b.crash()
	b.run()
	b.flush()
	require.Equal(t, keys, b.server.got("g"))
	b.end()
	requireEmpty(t, b.Queue)
}

func TestOneProcess(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	_, err := Open(b.cfg)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, b.cfg.Dir)
}

// requireEmpty checks that nothing is left, on disk neither but for the beginnings of a file.
func requireEmpty(t *testing.T, q *Queue) {
	t.Helper()
	s := q.Stats()
	require.Less(t, s.FileBytes, 2*q.cfg.segmentBytes()+1)
	s.FileBytes = 0
	require.Equal(t, Stats{}, s)
}

func TestFull(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.BytesMax = 1 << 20 })
	b.server.failing(says(403, "not_subscriber"))
	n := 0
	var err error
	large := groupSend("g", "")
	large.Payload = make([]byte, 30_000)
	for ; err == nil; n++ {
		_, err = b.Enqueue(t.Context(), large)
	}
	full := (*FullError)(nil)
	require.ErrorAs(t, err, &full)
	require.Equal(t, int64(1<<20), full.BytesMax)
	require.LessOrEqual(t, full.Bytes, int64(1<<20))
	require.Greater(t, full.Bytes+full.More, int64(1<<20))
	require.Equal(t, b.Stats().Bytes, full.Bytes)
	require.Equal(t, n-1, b.Stats().Entries)

	// Dead letters are as large as entries, and more: they make room when they are dropped.
	b.run()
	b.flush()
	all, err := b.DeadLetters(0, 100)
	require.NoError(t, err)
	require.Len(t, all, n-1)
	for _, d := range all {
		require.NoError(t, b.DropDead(d.Number))
		require.NoError(t, b.DropDead(d.Number), "twice is harmless")
	}
	requireEmpty(t, b.Queue)
	b.server.failing(nil)
	b.enqueue("g", "no")
	b.flush()
}

// What the server refuses is kept with the reason, and its channel continues.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		return s.ClientMsgNo == "no-0001" && says(409, "client_msg_no_conflict")(w, s)
	})
	b.enqueue("g", numbers(0, 4)...)
	b.run()
	b.flush()
	require.Equal(t, []string{"no-0000", "no-0002", "no-0003"}, b.server.got("g"))
	require.Len(t, b.deadSoFar(), 1)
	d := b.deadSoFar()[0]
	require.Equal(t, Refused, d.Reason)
	require.Equal(t, 409, d.Status)
	require.Equal(t, "client_msg_no_conflict", d.Code)
	require.Equal(t, "409 client_msg_no_conflict: said so", d.Text)
	require.Equal(t, "no-0001", d.Send.ClientMsgNo)
	require.Equal(t, []byte("hi"), d.Send.Payload)
	require.False(t, d.MaybeStored)
	b.end()

	b.open()
	all, err := b.DeadLetters(0, 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.True(t, all[0].DiedAt.Equal(d.DiedAt))
	all[0].DiedAt, all[0].EnqueuedAt = d.DiedAt, d.EnqueuedAt
	require.Equal(t, d, all[0])
	all, err = b.DeadLetters(d.Number, 10)
	require.NoError(t, err)
	require.Empty(t, all)
	require.Equal(t, 1, b.Stats().DeadLetters)

	require.Error(t, b.Revive(d.Number+1))
	require.Error(t, b.Revive(0))
	require.NoError(t, b.Revive(d.Number))
	require.Error(t, b.Revive(d.Number), "it lives")
	b.server.failing(nil)
	b.run()
	b.flush()
	require.Equal(t, []string{"no-0000", "no-0002", "no-0003", "no-0001"}, b.server.got("g"))
	requireEmpty(t, b.Queue)
	b.end()
}

// A wrong token, or an address that is another server's, is no reason to give a send up.
func TestTroubleOfAllIsNoRefusal(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]string{401: "unauthorized", 403: "insufficient_scope", 404: "not_found", 429: "rate_limited", 502: ""} {
		b := setup(t, nil)
		b.server.failing(says(status, code))
		b.enqueue("g", numbers(0, 2)...)
		b.run()
		require.Eventually(t, func() bool { return b.server.count() > 3 }, testTimeout, time.Millisecond)
		b.server.failing(nil)
		b.flush()
		require.Equal(t, numbers(0, 2), b.server.got("g"))
		b.end()
	}
}

// While the server is away one send at a time looks whether it is back, however many wait.
func TestOneProbes(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var now, most atomic.Int64
	away := make(chan struct{})
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		select {
		case <-away:
		default:
			return says(503, "draining")(w, s) // for the first ones, which come together
		}
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		return says(503, "draining")(w, s)
	})
	for i := range 100 {
		b.enqueue(fmt.Sprint(i), numbers(0, 2)...)
	}
	b.run()
	require.Eventually(t, func() bool { return b.server.count() > 50 }, testTimeout, time.Millisecond)
	close(away)
	seen := b.server.count()
	require.Eventually(t, func() bool { return b.server.count() > seen+50 }, testTimeout, time.Millisecond)
	require.Equal(t, int64(1), most.Load())
	b.server.failing(nil)
	b.flush()
	for i := range 100 {
		require.Equal(t, numbers(0, 2), b.server.got(fmt.Sprint(i)))
	}
	b.end()
}

// A channel whose partition does not answer holds up no other.
func TestChannelsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.Workers = 2 })
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		return s.ChannelID == "stuck" && says(503, "no_answer")(w, s)
	})
	b.enqueue("stuck", numbers(0, 2)...)
	b.enqueue("free", numbers(0, 50)...)
	b.run()
	require.Eventually(t, func() bool { return b.Stats().Entries == 2 }, testTimeout, time.Millisecond)
	require.Equal(t, numbers(0, 50), b.server.got("free"))
	b.server.failing(nil)
	b.flush()
	b.end()
}

func TestSendNowOrLater(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	send := func(no string) (client.Result, bool, error) {
		r, handle, err := b.Send(t.Context(), groupSend("g", no))
		return r, handle != nil, err
	}
	r, queued, err := send("1")
	require.NoError(t, err)
	require.False(t, queued)
	require.Equal(t, int64(1), r.MessageSeq)

	b.server.failing(says(503, "wal_unavailable"))
	_, queued, err = send("2")
	require.NoError(t, err)
	require.True(t, queued)
	b.server.failing(nil)
	_, queued, err = send("3") // not before 2
	require.NoError(t, err)
	require.True(t, queued)
	b.run()
	b.flush()
	require.Equal(t, []string{"1", "2", "3"}, b.server.got("g"))
	_, queued, err = send("")
	require.NoError(t, err)
	require.False(t, queued, "the channel is free again")

	b.server.failing(says(413, "too_large"))
	_, queued, err = send("4")
	require.True(t, client.IsRefused(err))
	require.False(t, queued)
	require.Zero(t, b.Stats().DeadLetters, "the caller has the error")
	b.end()
}

func TestExpired(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.AgeMax = time.Millisecond })
	b.enqueue("g", "no")
	<-time.After(5 * time.Millisecond)
	b.run()
	b.flush()
	require.Equal(t, Expired, b.deadSoFar()[0].Reason)
	require.Zero(t, b.server.count())
	b.end()
}

// What is under way when Run is to end comes to its end, and does not stay in the queue.
func TestRunDrains(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.DrainTimeout = testTimeout })
	entered, leave := make(chan struct{}), make(chan struct{})
	b.server.failing(func(http.ResponseWriter, client.Send) bool {
		close(entered)
		<-leave
		return false
	})
	b.enqueue("g", numbers(0, 2)...)
	b.run()
	receive(t, entered)
	b.stop()
	close(leave)
	require.NoError(t, receive(t, b.ran))
	require.Equal(t, 1, b.Stats().Entries)
	require.Equal(t, []string{"no-0000"}, b.sentSoFar())

	// One that takes too long is cut off, and stays.
	require.NoError(t, b.Queue.Close())
	b.cfg.DrainTimeout = time.Millisecond
	b.open()
	entered, leave = make(chan struct{}), make(chan struct{})
	defer close(leave)
	b.run()
	receive(t, entered)
	b.end()
	b.open()
	require.Equal(t, 1, b.Stats().Entries)
}

func TestFlushTellsHowManyAreLeft(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.enqueue("g", numbers(0, 2)...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := b.Flush(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "2 sends")
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	_, err := Open(Config{BytesMax: -1, Workers: -1, BackoffMin: 2, BackoffMax: 1, DrainTimeout: -1, AgeMax: -1, ResendWithin: -1,
		PayloadBytesMax: -1, BatchItemsMax: -1, BatchBytesMax: -1, RetryAfterMax: -1})
	for _, what := range []string{"Dir", "Client", "BytesMax", "Workers", "BackoffMin", "DrainTimeout", "AgeMax", "ResendWithin", "PayloadBytesMax",
		"BatchItemsMax", "BatchBytesMax", "RetryAfterMax"} {
		require.ErrorContains(t, err, what)
	}
}

func TestLanes(t *testing.T) {
	t.Parallel()
	person := func(from, to string) laneKey {
		return laneOf(&client.Send{FromUID: from, ChannelID: to, ChannelType: client.ChannelPerson})
	}
	require.Equal(t, person("a", "b"), person("b", "a"))
	require.Equal(t, person("a", "b"), person("a", "b@a"))
	require.NotEqual(t, person("a", "b"), person("a", "c"))
	require.NotEqual(t, laneOf(&client.Send{ChannelID: "g", ChannelType: client.ChannelGroup}), laneOf(&client.Send{ChannelID: "g", ChannelType: client.ChannelCommunity}))
}
