package queue

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// disk has the queue's commits fail, or seem to.
type disk struct {
	mu       sync.Mutex
	err      error
	takesAll bool // they are on disk all the same
	left     int  // so many commits are still to fail
	failed   int
}

const forEver = math.MaxInt

// fails has the next commits fail.
func (d *disk) fails(commits int, err error, takesAll bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.err, d.takesAll = commits, err, takesAll
}

func (d *disk) works() { d.fails(0, nil, false) }

func (d *disk) failures() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// of puts itself below a queue that does not run yet.
func (d *disk) of(b *bundle) {
	b.store.update = func(f func(*bolt.Tx) error) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.left == 0 {
			return b.store.db.Update(f)
		}
		d.left--
		d.failed++
		if d.takesAll {
			if err := b.store.db.Update(f); err != nil {
				return err
			}
		}
		return d.err
	}
}

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// While the disk takes nothing nothing is sent that could not be noted, and when it does again all goes on: each send once, and told once, also
// where a change that failed is on disk all the same.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	for name, takesAll := range map[string]bool{"nothing is on disk": false, "all is on disk": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const channels, workers = 20, 4
			var d disk
			var log logged
			b := setup(t, func(c *Config) { c.Logger, c.Workers = slog.New(slog.NewTextHandler(&log, nil)), workers })
			d.of(b)
			for i := range channels {
				b.enqueue(fmt.Sprint(i), numbers(0, 3)...)
			}
			var first sync.Once
			b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
				first.Do(func() { d.fails(forEver, syscall.ENOSPC, takesAll) })
				if s.ClientMsgNo != "no-0001" {
					return false
				}
				d.fails(5, syscall.EIO, takesAll)
				return says(403, "not_subscribed")(w, s)
			})
			b.run()
			require.Eventually(t, func() bool { return d.failures() > 50 }, testTimeout, time.Millisecond)
			require.LessOrEqual(t, b.server.count(), workers, "nothing is begun that could not be noted")
			require.Equal(t, 1, log.count("takes no changes"))
			d.works()
			b.flush()

			require.GreaterOrEqual(t, log.count("takes changes again"), 1)
			require.Equal(t, channels*3, b.server.count(), "none was sent again")
			require.Len(t, b.sentSoFar(), channels*2)
			require.Len(t, b.deadSoFar(), channels)
			for i := range channels {
				require.Equal(t, []string{"no-0000", "no-0002"}, b.server.got(fmt.Sprint(i)))
			}
			all, err := b.DeadLetters(0, forEver)
			require.NoError(t, err)
			require.Len(t, all, channels)
			require.ElementsMatch(t, ids(b.deadSoFar()), ids(all))
			for _, d := range all {
				require.NoError(t, b.DropDead(d.ID))
			}
			require.Equal(t, Stats{}, b.Stats())
			b.end()
		})
	}
}

func ids(letters []DeadLetter) (all []uint64) {
	for _, d := range letters {
		all = append(all, d.ID)
	}
	return all
}

// A process that ends while the disk takes nothing leaves a doubt about what was answered, not a second message.
func TestDiskFailsAtTheEnd(t *testing.T) {
	t.Parallel()
	var d disk
	b := setup(t, nil)
	d.of(b)
	b.enqueue("g", numbers(0, 2)...)
	b.server.failing(func(http.ResponseWriter, client.Send) bool {
		d.fails(forEver, syscall.ENOSPC, false)
		return false
	})
	b.run()
	require.Eventually(t, func() bool { return d.failures() > 3 }, testTimeout, time.Millisecond)
	b.stop()
	require.NoError(t, receive(t, b.ran))
	d.works() // an orderly end may take marks back
	require.NoError(t, b.Queue.Close())
	b.server.failing(nil)
	b.cfg.ResendWithin = time.Nanosecond
	b.open()
	b.run()
	b.flush()
	require.Equal(t, numbers(0, 2), b.server.got("g"))
	require.Equal(t, 2, b.server.count(), "it was sent again")
	require.Equal(t, Uncertain, b.deadSoFar()[0].Reason)
	b.end()
}

// A mark that could not be taken back may be gone: the next try is not made before it is there again.
func TestUnmarkFails(t *testing.T) {
	t.Parallel()
	var d disk
	b := setup(t, func(c *Config) { c.ResendWithin = time.Nanosecond }) // each failure takes the mark back
	d.of(b)
	b.enqueue("g", "no")
	var tries atomic.Int64
	unsure := make(chan bool, 1000)
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		marked := false
		_ = b.store.db.View(func(tx *bolt.Tx) error {
			key := laneOf(&s)
			_, since, ok := readMark(tx.Bucket(b.store.names.marks).Get(key[:]))
			marked = ok && !since.IsZero()
			return nil
		})
		unsure <- !marked
		if tries.Add(1) == 1 {
			d.fails(forEver, syscall.EIO, true)
		}
		return says(503, "wal_full")(w, s)
	})
	b.run()
	require.Eventually(t, func() bool { return d.failures() > 1 }, testTimeout, time.Millisecond)
	d.works()
	require.Eventually(t, func() bool { return tries.Load() > 2 }, testTimeout, time.Millisecond)
	b.server.failing(nil)
	b.flush()
	close(unsure)
	for one := range unsure {
		require.False(t, one, "a try without a mark")
	}
	b.end()
}

// What time does not heal ends Run.
func TestLostFileEndsRun(t *testing.T) {
	t.Parallel()
	var d disk
	b := setup(t, nil)
	d.of(b)
	b.enqueue("g", numbers(0, 2)...)
	d.fails(forEver, berrors.ErrInvalidMapping, false)
	b.run()
	require.ErrorIs(t, receive(t, b.ran), berrors.ErrInvalidMapping)
	d.works()
	b.stop()
}
