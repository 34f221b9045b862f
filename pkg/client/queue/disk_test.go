package queue

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/internal/journal"
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

// write is the queue's.
func (d *disk) write(f *os.File, text []byte, at int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == 0 {
		return journal.WriteAndSync(f, text, at)
	}
	d.left--
	d.failed++
	if d.takesAll {
		if err := journal.WriteAndSync(f, text, at); err != nil {
			return err
		}
	}
	return d.err
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

// While the disk takes no changes, nothing is sent that could not be noted. When it does again, delivery continues: each send once, and reported
// once, also if a change that failed is on disk all the same.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	for name, takesAll := range map[string]bool{"nothing is on disk": false, "all is on disk": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const channels, workers = 20, 4
			var d disk
			var log logged
			b := setup(t, func(c *Config) {
				c.Logger, c.Workers, c.write = slog.New(slog.NewTextHandler(&log, nil)), workers, d.write
				c.BatchItemsMax = 1
			})
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
				require.NoError(t, b.DropDead(d.Number))
			}
			requireEmpty(t, b.Queue)
			b.end()
		})
	}
}

func ids(letters []DeadLetter) (all []uint64) {
	for _, d := range letters {
		all = append(all, d.Number)
	}
	return all
}

// A process that ends while the disk takes nothing leaves a doubt about what was answered, not a second message.
func TestDiskFailsAtTheEnd(t *testing.T) {
	t.Parallel()
	var d disk
	b := setup(t, func(c *Config) { c.write = d.write })
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
	b.server.forgets(time.Millisecond)
	b.open()
	b.run()
	b.flush()
	require.Equal(t, numbers(0, 2), b.server.got("g"))
	require.Equal(t, 2, b.server.count(), "it was sent again")
	require.Equal(t, Uncertain, b.deadSoFar()[0].Reason)
	b.end()
}

// A try does not begin before its mark is on disk, also where a mark was taken back before and the disk failed.
func TestNoTryWithoutMark(t *testing.T) {
	t.Parallel()
	var d disk
	b := setup(t, func(c *Config) { c.write = d.write })
	var tries atomic.Int64
	unmarked := make(chan bool, 1000)
	b.server.failing(func(w http.ResponseWriter, s client.Send) bool {
		unmarked <- !markedOnDisk(t, b, &s)
		if tries.Add(1)%3 == 1 {
			d.fails(3, syscall.EIO, tries.Load()%2 == 0)
		}
		return says(503, "wal_full")(w, s)
	})
	b.enqueue("g", numbers(0, 2)...)
	b.run()
	require.Eventually(t, func() bool { return tries.Load() > 10 }, testTimeout, time.Millisecond)
	b.server.failing(nil)
	d.works()
	b.flush()
	close(unmarked)
	for one := range unmarked {
		require.False(t, one, "a try without a mark")
	}
	b.end()
}

// markedOnDisk reads the queue's files as they are at this moment.
func markedOnDisk(t *testing.T, b *bundle, s *client.Send) bool {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "queue"), os.DirFS(b.cfg.Dir)))
	cfg := b.cfg
	cfg.Dir, cfg.write = filepath.Join(dir, "queue"), nil
	q, err := Open(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, q.Close()) }()
	one := q.byKey[laneOf(s)]
	return one != nil && one.first().since != 0
}

// Files that are deleted while the queue is open end it, and every caller gets that error.
func TestDeletedFolder(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(dir string) error{
		"the folder": os.RemoveAll,
		"moved":      func(dir string) error { return os.Rename(dir, dir+".old") },
		"a file":     func(dir string) error { return os.Remove(filepath.Join(dir, "0000000001.log")) },
		"replaced":   func(dir string) error { return errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bundle{t: t, server: newServer(t)}
			c, err := client.New(client.Config{URL: b.server.URL})
			require.NoError(t, err)
			b.cfg = Config{Dir: filepath.Join(t.TempDir(), "queue"), Client: c}
			b.open()
			b.server.failing(says(503, "wal_full"))
			b.enqueue("g", "no")
			b.run()
			require.NoError(t, remove(b.cfg.Dir))
			_, err = b.Enqueue(t.Context(), groupSend("g", "late"))
			require.ErrorIs(t, err, ErrGone)
			require.ErrorIs(t, receive(t, b.ran), ErrGone)
			require.ErrorIs(t, b.Flush(t.Context()), ErrGone)
			_, err = b.Enqueue(t.Context(), groupSend("g", "later"))
			require.ErrorIs(t, err, ErrGone)
			require.ErrorIs(t, b.Queue.Close(), ErrGone, "also for who has not looked at Run's error")
		})
	}
}
