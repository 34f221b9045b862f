package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/internal/journal"
)

// Sends at which something between here and the server breaks the connection stop no other channel, alone or in a bulk.
func TestPoison(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1, 100} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(c *Config) { c.BatchItemsMax, c.BackoffMax = most, 50*time.Millisecond })
			b.server.failing(func(_ http.ResponseWriter, s client.Send) bool {
				if strings.HasPrefix(s.ChannelID, "poison") {
					panic(http.ErrAbortHandler)
				}
				return false
			})
			const healthy = 200
			for i := range healthy {
				if i%50 == 0 {
					b.enqueue(fmt.Sprint("poison", i), numbers(0, 2)...)
				}
				b.enqueue(fmt.Sprint(i), numbers(0, 2)...)
			}
			b.run()
			require.Eventually(t, func() bool { return len(b.sentSoFar()) == 2*healthy }, testTimeout, time.Millisecond)
			for i := range healthy {
				require.Equal(t, numbers(0, 2), b.server.got(fmt.Sprint(i)))
			}
			b.server.failing(nil)
			b.flush()
			require.Equal(t, numbers(0, 2), b.server.got("poison0"))
			require.Empty(t, b.deadSoFar())
			b.end()
		})
	}
}

// Questions for the status of doubtful sends do not hold the others up, whatever becomes of them.
func TestChecksHoldNothingUp(t *testing.T) {
	t.Parallel()
	var asking, most atomic.Int64
	leave := make(chan struct{})
	b := setup(t, func(c *Config) {
		c.ResendWithin = time.Millisecond
		c.Check = func(ctx context.Context, _ client.Send, _ time.Time) (Verdict, client.Result, error) {
			most.Store(max(most.Load(), asking.Add(1)))
			defer asking.Add(-1)
			select {
			case <-leave:
			case <-ctx.Done():
			}
			return CannotTell, client.Result{}, errors.New("not now")
		}
	})
	b.server.failing(says(503, "no_answer"))
	for i := range 48 {
		b.enqueue(fmt.Sprint("doubtful", i), "no")
	}
	b.run()
	require.Eventually(t, func() bool { return asking.Load() > 0 && b.server.count() >= 48 }, testTimeout, time.Millisecond)
	b.server.failing(nil)
	b.enqueue("fresh", numbers(0, 20)...)
	require.Eventually(t, func() bool { return len(b.server.got("fresh")) == 20 }, testTimeout, time.Millisecond)
	require.LessOrEqual(t, most.Load(), int64(b.doubtersMax()))
	close(leave)
	b.cfg.Check = nil
	b.stop()
}

// Retry-After is heeded up to a limit.
func TestRetryAfterIsCapped(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.RetryAfterMax = 20 * time.Millisecond })
	var first atomic.Bool
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		if first.Swap(true) {
			return false
		}
		w.Header().Set("Retry-After", "2147483647")
		return says(429, "rate_limited")(w, s)
	})
	b.enqueue("g", "no")
	b.run()
	b.flush()
	b.end()
}

// Sends that wait while the server is away were never tried: a crash leaves no doubt about them.
func TestWaitingIsNoTry(t *testing.T) {
	t.Parallel()
	b := setup(t, forgetful)
	for i := range 20 {
		b.enqueue(fmt.Sprint(i), numbers(0, 3)...)
	}
	b.crash()
	b.server.statusIs("")
	b.run()
	b.flush()
	require.Empty(t, b.deadSoFar())
	require.Len(t, b.sentSoFar(), 60)
	b.end()
}

// A try never begins without its mark on disk, also if another goroutine enqueues to the channel at that moment.
func TestMarkRacesWithEnqueue(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.BatchItemsMax = 3 })
	var unmarked, tries atomic.Int64
	b.server.failing(func(_ http.ResponseWriter, s client.Send) bool {
		if tries.Add(1)%7 == 0 {
			if !markedOnDisk(t, b, &s) {
				unmarked.Add(1)
			}
		}
		return false
	})
	b.run()
	var producers sync.WaitGroup
	for c := range 4 {
		producers.Go(func() {
			for n := range 60 {
				if _, err := b.Enqueue(t.Context(), groupSend(fmt.Sprint(c), fmt.Sprintf("no-%04d", n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	producers.Wait()
	b.flush()
	require.Zero(t, unmarked.Load(), "tries without a mark")
	b.end()
}

// The server's window decides, not a guess: what it no longer knows is not sent again.
func TestWindowOfServer(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		remembers time.Duration
		again     bool
	}{
		"it remembers":              {time.Hour, true},
		"it has forgotten":          {time.Millisecond, false},
		"less than a request takes": {500 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			b.server.forgets(row.remembers)
			b.lost(true)
			b.enqueue("g", "no")
			b.run()
			b.flush()
			if row.again {
				require.Equal(t, []string{"no"}, b.sentSoFar())
			} else {
				require.Equal(t, Uncertain, b.deadSoFar()[0].Reason)
				require.Equal(t, 1, b.server.count())
			}
			b.end()
		})
	}
}

// While the server does not know its window, as after its start, a send that may be stored waits, and others are sent.
func TestWindowNotKnownYet(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.forgets(0)
	b.lost(true)
	b.enqueue("g", "no")
	b.run()
	require.Eventually(t, func() bool { return b.server.windowsAsked() > 2 }, testTimeout, time.Millisecond)
	b.enqueue("other", numbers(0, 3)...)
	require.Eventually(t, func() bool { return len(b.server.got("other")) == 3 }, testTimeout, time.Millisecond)
	require.Equal(t, 4, b.server.count(), "it was sent again")
	require.Zero(t, b.Stats().DeadLetters)
	b.server.forgets(time.Hour)
	b.flush()
	require.Equal(t, []string{"no"}, b.server.got("g"))
	require.Equal(t, 5, b.server.count())
	b.end()
}

// A server without the route is taken to remember for a minute.
func TestWindowOfOldServer(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.forgets(-1)
	b.lost(true)
	b.enqueue("g", "no")
	b.run()
	b.flush()
	require.Equal(t, []string{"no"}, b.sentSoFar())
	require.Equal(t, 2, b.server.count())
	b.end()
}

// A dead letter that may have been stored is asked for when it lives again.
func TestReviveRemembers(t *testing.T) {
	t.Parallel()
	b := setup(t, forgetful)
	b.lost(true)
	b.enqueue("g", "no")
	b.run()
	b.flush()
	d := b.deadSoFar()[0]
	require.True(t, d.MaybeStored)
	require.WithinDuration(t, time.Now(), d.MaybeStoredSince, testTimeout)
	b.server.statusIs(`{"state":"stored","client_msg_no":"no","message_id":7,"message_seq":3}`)
	require.NoError(t, b.Revive(d.Number))
	b.flush()
	require.Equal(t, 1, b.server.count(), "it was sent again")
	require.Equal(t, []string{"no"}, b.sentSoFar())
	b.end()
}

// A variable that is used for many sends is many sends.
func TestEnqueueByValue(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	s := groupSend("g", "")
	nos := make(map[string]bool)
	for range 3 {
		handles, err := b.Enqueue(t.Context(), s)
		require.NoError(t, err)
		nos[handles[0].ClientMsgNo] = true
	}
	require.Len(t, nos, 3)
	require.Empty(t, s.ClientMsgNo)
	require.Equal(t, 3, b.Stats().Entries)
}

// What no server would take is refused at once, and with it the sends of the same call.
func TestEnqueueValidates(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for field, set := range map[string]func(*client.Send){
		"payload":      func(s *client.Send) { s.Payload = nil },
		"from_uid":     func(s *client.Send) { s.FromUID = "" },
		"channel_id":   func(s *client.Send) { s.ChannelID = "a b" },
		"channel_type": func(s *client.Send) { s.ChannelType = 0 },
		"tag_key":      func(s *client.Send) { s.TagKey = strings.Repeat("x", 257) },
		"subscribers":  func(s *client.Send) { s.Subscribers = []string{"a"} },
	} {
		bad := groupSend("g", "no")
		set(&bad)
		_, err := b.Enqueue(t.Context(), groupSend("g", "good"), bad)
		answered := (*client.Error)(nil)
		require.ErrorAs(t, err, &answered, field)
		require.Equal(t, field, answered.Field)
		require.True(t, client.IsRefused(err))
	}
	large := groupSend("g", "no")
	large.Payload = make([]byte, 512<<10+1)
	_, err := b.Enqueue(t.Context(), large)
	require.ErrorContains(t, err, "413 too_large")
	requireEmpty(t, b.Queue)
}

// A handle tells what became of its send, also if that was before the question; one that is ignored takes no memory.
func TestHandles(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		return s.ClientMsgNo == "bad" && says(409, "client_msg_no_conflict")(w, s)
	})
	handles, err := b.Enqueue(t.Context(), groupSend("g", "1"), groupSend("g", "bad"), groupSend("g", "3"))
	require.NoError(t, err)
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = handles[0].Wait(soon)
	require.ErrorIs(t, err, context.Canceled)
	b.run()
	b.flush()
	r, err := handles[0].Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), r.MessageSeq)
	_, err = handles[1].Wait(t.Context())
	dead := (*DeadError)(nil)
	require.ErrorAs(t, err, &dead)
	require.Equal(t, Refused, dead.Letter.Reason)
	r, err = handles[2].Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(2), r.MessageSeq)
	runtime.KeepAlive(handles)

	b.server.failing(says(503, "wal_full"))
	b.enqueue("g", numbers(0, 50)...)
	waits, err := b.Enqueue(t.Context(), groupSend("g", "last"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		runtime.GC()
		b.Queue.mu.Lock()
		defer b.Queue.mu.Unlock()
		return len(b.handles) < 10
	}, testTimeout, time.Millisecond)
	b.end()
	_, err = waits[0].Wait(t.Context())
	require.ErrorIs(t, err, ErrClosed)
}

// Send does not try what the whole queue knows to be in vain.
func TestSendHeedsTheGate(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.BackoffMin, c.BackoffMax = time.Hour, time.Hour })
	b.server.failing(says(503, "draining"))
	b.enqueue("a", "no")
	b.run()
	require.Eventually(t, func() bool { return b.Stats().Shut }, testTimeout, time.Millisecond)
	require.Error(t, b.Stats().LastError)
	tried := b.server.count()
	_, queued, err := b.Queue.Send(t.Context(), groupSend("b", "no"))
	require.NoError(t, err)
	require.NotNil(t, queued)
	require.Equal(t, tried, b.server.count())
	b.end()
}

// All sends of a call have numbers that follow each other, however long it takes to make them, and handles that are garbage are forgotten one by one:
// what that costs depends on how many there are, and on nothing else.
func TestHandlesOfManySends(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	const n = 20_000
	sends := make([]client.Send, n)
	for i := range sends {
		sends[i] = groupSend("g", fmt.Sprint(i))
	}
	enqueue := func(sends ...client.Send) {
		handles, err := b.Enqueue(t.Context(), sends...)
		require.NoError(t, err)
		for i, h := range handles {
			require.Equal(t, handles[0].Number+uint64(i), h.Number)
		}
	}
	enqueue(sends...)
	enqueue(groupSend("g", "last")) // comes after all of them
	require.Eventually(t, func() bool {
		runtime.GC()
		b.Queue.mu.Lock()
		defer b.Queue.mu.Unlock()
		return len(b.handles) == 0
	}, testTimeout, time.Millisecond)
	require.NoError(t, b.Queue.Close())
	b.open()
	last := uint64(0)
	b.byKey[laneOf(&sends[0])].all(0, func(i *item) bool {
		require.Greater(t, i.number, last)
		last = i.number
		return true
	})
	require.Equal(t, n+1, b.Stats().Entries)
}

// Sends that a worker has been given are moved to another file before it reads them.
func TestReadsWhatHasMoved(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.BytesMax, c.BatchItemsMax = 1<<20, 100 }) // files of 16 KiB
	b.enqueue("moved", numbers(0, 3)...)
	b.Queue.mu.Lock()
	b.window.at, b.window.Ordered = time.Now(), true
	j, _ := b.take(b.window.at)
	b.Queue.mu.Unlock()
	require.Equal(t, 3, j.sends())
	large := groupSend("large", "")
	large.Payload = make([]byte, 10_000)
	for moved := false; !moved; {
		handles, err := b.Enqueue(t.Context(), large)
		require.NoError(t, err)
		require.NoError(t, b.commit(func(batch *journal.Batch) { batch.Add(kindGone, goneRecord(laneOf(&large), handles[0].Number)) }))
		_, err = b.journal.Read(j.runs[0][0].at, nil)
		moved = err != nil
	}
	b.do(t.Context(), j)
	require.Empty(t, b.deadSoFar())
	require.Equal(t, numbers(0, 3), b.server.got("moved"))
	require.Equal(t, numbers(0, 3), b.sentSoFar())
}

// Sends that cannot be delivered yet are read again and again while other sends move them from file to file.
func TestReadsWhileMoving(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.BytesMax, c.BatchItemsMax, c.BackoffMax = 1<<20, 100, time.Millisecond })
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		return strings.HasPrefix(s.ChannelID, "stuck") && says(503, "wal_stalled")(w, s)
	})
	const channels = 20
	for c := range channels {
		b.enqueue(fmt.Sprint("stuck", c), numbers(0, 5)...)
	}
	b.run()
	large := groupSend("large", "")
	large.Payload = make([]byte, 20_000)
	for range 100 {
		handles, err := b.Enqueue(t.Context(), large)
		require.NoError(t, err)
		_, err = handles[0].Wait(t.Context())
		require.NoError(t, err)
	}
	b.server.failing(nil)
	b.flush()
	require.Empty(t, b.deadSoFar())
	for c := range channels {
		require.Equal(t, numbers(0, 5), b.server.got(fmt.Sprint("stuck", c)))
	}
	b.end()
}

// Files are never larger than twice BytesMax, and shrink, also while one channel cannot be delivered.
func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.BytesMax, c.BatchItemsMax = 1<<20, 100 })
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		return s.ChannelID == "stuck" && says(503, "no_answer")(w, s)
	})
	b.enqueue("stuck", numbers(0, 5)...)
	b.run()
	var largest int64
	for n := range 300 {
		s := groupSend(fmt.Sprint(n%3), "")
		s.Payload = make([]byte, 20_000)
		for {
			_, err := b.Enqueue(t.Context(), s, s)
			largest = max(largest, b.Stats().FileBytes)
			if full := (*FullError)(nil); !errors.As(err, &full) {
				require.NoError(t, err)
				break
			}
			runtime.Gosched()
		}
	}
	require.LessOrEqual(t, largest, int64(2<<20))
	require.Eventually(t, func() bool { return b.Stats().Entries == 5 }, testTimeout, time.Millisecond)
	b.enqueue("another", "no") // the files are tidied after a change
	require.Eventually(t, func() bool { return b.Stats().FileBytes < 200<<10 }, testTimeout, time.Millisecond)
	b.server.failing(nil)
	b.flush()
	requireEmpty(t, b.Queue)
	b.end()
}

// A run of a channel goes in one request, in order, and what is behind a send that was not taken is not stored before it.
func TestBulkKeepsOrder(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.BatchItemsMax, c.RetryAfterMax = 100, time.Millisecond })
	var n atomic.Int64
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		switch n.Add(1) % 23 {
		case 7:
			return says(503, "wal_unavailable")(w, s)
		case 11:
			b.server.store(s)
			return says(503, "no_answer")(w, s)
		}
		return false
	})
	const each = 400
	for c := range 3 {
		var sends []client.Send
		for _, no := range numbers(0, each) {
			sends = append(sends, groupSend(fmt.Sprint(c), no))
		}
		_, err := b.Enqueue(t.Context(), sends...)
		require.NoError(t, err)
	}
	b.run()
	b.flush()
	for c := range 3 {
		require.Equal(t, numbers(0, each), b.server.got(fmt.Sprint(c)))
	}
	require.Empty(t, b.deadSoFar())
	b.end()
}
