package queue

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// forgetful is a queue that does not send again what may be stored.
func forgetful(c *Config) { c.ResendWithin = time.Millisecond }

// lost loses the answer to the first request of a send; whether it is stored is up to the test.
func (b *bundle) lost(stored bool) {
	var first atomic.Bool
	b.server.failing(func(_ http.ResponseWriter, s client.Send) bool {
		if first.Swap(true) {
			return false
		}
		if stored {
			b.server.store(s)
		}
		panic(http.ErrAbortHandler)
	})
}

// A send that may be stored is sent again while the server is sure to know it, and after that is not.
func TestUncertain(t *testing.T) {
	t.Parallel()
	b := setup(t, forgetful)
	b.lost(true)
	b.enqueue("g", numbers(0, 2)...)
	b.run()
	b.flush()
	require.Equal(t, numbers(0, 2), b.server.got("g"))
	require.Equal(t, []string{"no-0001"}, b.sentSoFar())
	d := b.deadSoFar()
	require.Len(t, d, 1)
	require.Equal(t, Uncertain, d[0].Reason)
	require.Equal(t, "no-0000", d[0].Send.ClientMsgNo)
	require.True(t, d[0].MaybeStored)
	b.end()
}

// The server says that it wrote nothing: that may last for ever.
func TestNotStoredIsNoDoubt(t *testing.T) {
	t.Parallel()
	b := setup(t, forgetful)
	b.server.failing(says(503, "wal_full"))
	b.enqueue("g", numbers(0, 2)...)
	b.run()
	require.Eventually(t, func() bool { return b.server.count() > 5 }, testTimeout, time.Millisecond)
	b.server.failing(nil)
	b.flush()
	require.Equal(t, numbers(0, 2), b.server.got("g"))
	require.Empty(t, b.deadSoFar())
	b.end()
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]bool{"stored": true, "not stored": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			var b *bundle
			b = setup(t, func(c *Config) {
				c.ResendWithin = time.Millisecond
				c.Check = func(_ context.Context, s client.Send, _ time.Time) (Verdict, client.Result, error) {
					if asked.Add(1) < 3 {
						return CannotTell, client.Result{}, errors.New("not now")
					}
					b.server.mu.Lock()
					defer b.server.mu.Unlock()
					r, known := b.server.known[s.ChannelID+"/"+s.ClientMsgNo]
					if known {
						return Stored, r, nil
					}
					return NotStored, client.Result{}, nil
				}
			})
			b.lost(stored)
			b.enqueue("g", numbers(0, 2)...)
			b.run()
			b.flush()
			require.Equal(t, numbers(0, 2), b.server.got("g"))
			require.Equal(t, numbers(0, 2), b.sentSoFar())
			require.Equal(t, int64(3), asked.Load())
			require.Empty(t, b.deadSoFar())
			b.end()
		})
	}
}

// The default asks the server for the status, and believes only what it can.
func TestAsk(t *testing.T) {
	t.Parallel()
	plain := client.Send{ClientMsgNo: "no", FromUID: "u", ChannelID: "g", ChannelType: client.ChannelGroup, Payload: []byte("hi")}
	gone, leaves := plain, plain
	gone.Expire, leaves.NoPersist = 10, true
	for name, row := range map[string]struct {
		send    client.Send
		status  string
		verdict Verdict
		fails   bool
	}{
		"stored":                    {plain, `{"state":"stored","client_msg_no":"no","message_id":7,"message_seq":3}`, Stored, false},
		"accepted":                  {plain, `{"state":"accepted","client_msg_no":"no","message_id":7,"message_seq":3}`, Stored, false},
		"accepted, without a place": {plain, `{"state":"accepted","client_msg_no":"no","hint":"h"}`, CannotTell, true},
		"nowhere":                   {plain, `{"state":"unknown","client_msg_no":"no","complete":true}`, NotStored, false},
		"nowhere that was looked":   {plain, `{"state":"unknown","client_msg_no":"no","complete":false}`, CannotTell, true},
		"not served":                {plain, "", CannotTell, false},
		"expired perhaps":           {gone, `{"state":"unknown","client_msg_no":"no","complete":true}`, CannotTell, false},
		"leaves no trace":           {leaves, `{"state":"unknown","client_msg_no":"no","complete":true}`, CannotTell, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			b.server.statusIs(row.status)
			verdict, result, err := b.cfg.Check(t.Context(), row.send, time.Now().Add(-time.Minute))
			require.Equal(t, row.fails, err != nil, "%v", err)
			require.Equal(t, row.verdict, verdict)
			if verdict == Stored {
				require.Equal(t, client.Result{MessageID: 7, MessageSeq: 3, ClientMsgNo: "no", Replayed: true}, result)
			}
		})
	}
}

func TestRepeatUncertain(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.ResendWithin, c.RepeatUncertain = time.Millisecond, true })
	b.lost(true)
	b.enqueue("g", "no")
	b.run()
	b.flush()
	require.Equal(t, []string{"no"}, b.sentSoFar())
	b.end()
}

// What Send could not find out goes into the queue with it.
func TestSendLeavesDoubt(t *testing.T) {
	t.Parallel()
	b := setup(t, forgetful)
	b.server.failing(says(503, "no_answer"))
	_, queued, err := b.Send(t.Context(), groupSend("g", ""))
	require.NoError(t, err)
	require.NotNil(t, queued)
	b.server.failing(nil)
	b.crash()
	b.run()
	b.flush()
	require.Equal(t, Uncertain, b.deadSoFar()[0].Reason)
	b.end()
}

// A process dies while a send is under way. The next one must have doubts about it, and about no other.
func TestDoubtSurvivesCrash(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		close(entered)
		<-leave
		return says(503, "draining")(w, s)
	})
	b.enqueue("g", numbers(0, 2)...)
	b.run()
	receive(t, entered)
	b.cfg.ResendWithin = time.Millisecond
	b.crash()
	close(leave)
	b.server.failing(nil)
	b.run()
	b.flush()
	require.Equal(t, []string{"no-0001"}, b.server.got("g"))
	require.Equal(t, Uncertain, b.deadSoFar()[0].Reason)
	require.Equal(t, "no-0000", b.deadSoFar()[0].Send.ClientMsgNo)
	b.end()
}

// A process dies in a long outage: sends that never left the machine are not doubtful.
func TestNoDoubtAfterOutage(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.Workers = 1 })
	b.server.failing(says(503, "draining"))
	for _, channel := range []string{"a", "b", "c"} {
		b.enqueue(channel, numbers(0, 2)...) // before the outage is known
	}
	b.run()
	require.Eventually(t, func() bool { return b.Stats().Shut }, testTimeout, time.Millisecond)
	b.enqueue("d", numbers(0, 2)...) // in it
	require.Eventually(t, func() bool { return b.server.count() > 5 }, testTimeout, time.Millisecond)
	// The worker is in a pause of the outage, or in a try of the one channel that probes.
	b.cfg.ResendWithin = time.Millisecond
	b.crash()
	b.server.failing(nil)
	b.run()
	b.flush()
	require.LessOrEqual(t, len(b.deadSoFar()), 1, "the one that was being tried")
	whole := 0
	for _, channel := range []string{"a", "b", "c", "d"} {
		if len(b.server.got(channel)) == 2 {
			whole++
		}
	}
	require.GreaterOrEqual(t, whole, 3)
	b.end()
}

// An orderly end leaves no doubt about what is known.
func TestNoDoubtAfterClose(t *testing.T) {
	t.Parallel()
	b := setup(t, forgetful)
	b.enqueue("g", numbers(0, 2)...)
	require.NoError(t, b.Queue.Close())
	b.open()
	b.run()
	b.flush()
	require.Equal(t, numbers(0, 2), b.server.got("g"))
	require.Empty(t, b.deadSoFar())
	b.end()
}

// The machine is suspended for an hour after a try whose answer is lost: the send is not seconds old.
func TestDoubtAfterSuspend(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]string{"stored": `{"state":"stored","client_msg_no":"no","message_id":7,"message_seq":3}`, "unknown": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(c *Config) { c.BackoffMin, c.BackoffMax = time.Second, time.Second })
			b.server.forgets(30 * time.Minute)
			b.lost(true)
			b.enqueue("g", "no")
			b.run()
			require.Eventually(t, func() bool { return b.server.count() == 1 }, testTimeout, time.Millisecond)
			b.clock.mu.Lock()
			b.clock.ms += time.Hour.Milliseconds()
			b.clock.mu.Unlock()
			b.server.statusIs(status)
			b.flush()
			require.Equal(t, 1, b.server.count(), "it was sent again")
			if status == "" {
				require.Equal(t, Uncertain, b.deadSoFar()[0].Reason)
			} else {
				require.Equal(t, []string{"no"}, b.sentSoFar())
			}
		})
	}
}

// An answer that says that nothing was written is no reason for doubts: this one lasts as long as NATS is away.
func TestPermissionsUnavailableIsNoDoubt(t *testing.T) {
	t.Parallel()
	b := setup(t, forgetful)
	b.server.failing(says(503, "permissions_unavailable"))
	b.enqueue("g", numbers(0, 2)...)
	b.run()
	require.Eventually(t, func() bool { return b.server.count() > 5 || len(b.deadSoFar()) > 0 }, testTimeout, time.Millisecond)
	b.server.failing(nil)
	b.flush()
	require.Equal(t, numbers(0, 2), b.server.got("g"))
	require.Empty(t, b.deadSoFar())
	b.end()
}
