package permission

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// laggard is a connection whose watches, while it lags, start on a server that lacks the bucket's newest messages: the
// server reports at once that it has delivered everything, and delivers nothing.
type laggard struct {
	jetstream.JetStream
	lags    atomic.Bool
	watches atomic.Int64 // that started on the lagging server
}

type laggingBucket struct {
	jetstream.KeyValue
	laggard *laggard
}

type laggingWatch struct {
	updates chan jetstream.KeyValueEntry
	stop    sync.Once
}

func (l *laggard) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := l.JetStream.KeyValue(ctx, bucket)
	return laggingBucket{kv, l}, err
}

func (b laggingBucket) WatchAll(ctx context.Context, options ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	if !b.laggard.lags.Load() {
		return b.KeyValue.WatchAll(ctx, options...)
	}
	w := &laggingWatch{updates: make(chan jetstream.KeyValueEntry, 1)}
	w.updates <- nil
	b.laggard.watches.Add(1)
	return w, nil
}

func (w *laggingWatch) Updates() <-chan jetstream.KeyValueEntry { return w.updates }

func (w *laggingWatch) Stop() error {
	w.stop.Do(func() { close(w.updates) })
	return nil
}

// lagging returns a store whose watches can be made to lag; it is not running yet.
func (b *bundle) lagging() (*Store, *laggard) {
	b.t.Helper()
	s := b.idle(time.Minute)
	l := &laggard{JetStream: s.js}
	s.js = l
	return s, l
}

// begin restarts the store's watch while the connection lags.
func (l *laggard) begin(t *testing.T, s *Store) {
	t.Helper()
	before := l.watches.Load()
	l.lags.Store(true)
	s.again()
	eventually(t, "a watch that lags", func() bool { return l.watches.Load() > before })
}

// confirmedAgain waits until the store is confirmed again.
func confirmedAgain(t *testing.T, s *Store) {
	t.Helper()
	now := int64(time.Since(s.began))
	eventually(t, "confirmed again", func() bool { return s.confirmed.Load() > now })
}

// put writes a record as another process would.
func (b *bundle) put(ch Channel, record string) {
	b.t.Helper()
	_, err := b.kv.Put(b.t.Context(), ch.key(), []byte(record))
	require.NoError(b.t, err)
}

const bannedRecord = `{"v":1,"defined":true,"ban":true}`

// TestStartBehindALaggingServer: that a watch has delivered all messages of its server does not mean that it has delivered
// all messages of the bucket.
func TestStartBehindALaggingServer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	g := group("g")
	b.put(g, bannedRecord)
	s, lag := b.lagging()
	lag.lags.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = s.Run(ctx) })
	eventually(t, "another watch is tried", func() bool { return lag.watches.Load() >= 2 })
	require.ErrorIs(t, s.Check(), ErrNotReady, "the record is missing")
	require.Equal(t, Unavailable, s.ask("u", g))
	lag.lags.Store(false)
	eventually(t, "the ban is in force", func() bool { return s.ask("u", g) == ChannelBanned })
}

// TestNothingIsMissedBehindALaggingServer bans a channel while a store's watches lag. Later changes by other processes
// must not hide the ban.
func TestNothingIsMissedBehindALaggingServer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	g := group("g")
	b.put(g, `{"v":1,"defined":true}`)
	s, lag := b.lagging()
	b.run(s)
	lag.begin(t, s)
	confirmedAgain(t, s) // it has everything

	b.put(g, bannedRecord)
	put, watches := int64(time.Since(s.began)), lag.watches.Load()
	eventually(t, "other watches are tried", func() bool { return lag.watches.Load() >= watches+2 })
	require.Less(t, s.confirmed.Load(), put, "confirmed without the ban")
	b.put(group("other"), `{"v":1,"defined":true}`)
	lag.lags.Store(false)
	eventually(t, "the ban is in force", func() bool { return s.ask("u", g) == ChannelBanned })
	b.change(s, g, define("u"))
}

// TestNewestMessagesAreGone: the store does not wait for messages that were removed before the watch could deliver them.
func TestNewestMessagesAreGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stream, err := b.js.Stream(t.Context(), bucketStream)
	require.NoError(t, err)
	g, gone := group("g"), group("gone")
	b.put(g, bannedRecord)
	s, lag := b.lagging()
	b.run(s)
	lag.begin(t, s)
	b.put(gone, bannedRecord) // the store never sees it
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject(bucketSubjects+gone.key())))
	watches := lag.watches.Load()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	require.NoError(t, s.sync(ctx))
	confirmedAgain(t, s)
	confirmedAgain(t, s)
	require.LessOrEqual(t, lag.watches.Load(), watches+1, "no watch after another") // one may have been started in between
	require.Equal(t, ChannelBanned, b.store().ask("u", g), "a start is not held up either")

	lag.lags.Store(false)
	b.put(gone, bannedRecord)
	eventually(t, "what comes behind is seen", func() bool { return s.ask("u", gone) == ChannelBanned })

	last := b.store()
	b.change(last, g, define("u"))
	require.Equal(t, ChannelBanned, last.ask("v", g))
	b.change(last, g, Edit{Lower: FlagBanned})
	eventually(t, "seen by others", func() bool { return s.ask("v", g) == NotSubscribed })
}

// TestEmptyBucket: nothing can be missing from an empty bucket.
func TestEmptyBucket(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, lag := b.lagging()
	lag.lags.Store(true)
	b.run(s)
	require.Equal(t, Allowed, s.ask("u", group("g")))
}

// slowAnswer is a connection that runs a function between the stream's response and its delivery.
type slowAnswer struct {
	jetstream.JetStream
	meanwhile atomic.Pointer[func()]
}

func (l *slowAnswer) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := l.JetStream.Stream(ctx, name)
	if meanwhile := l.meanwhile.Swap(nil); meanwhile != nil {
		(*meanwhile)()
	}
	return stream, err
}

// TestChangeWhileThePositionIsAsked: a watch that is ahead of the leader's position, because a change was made after the
// leader responded, does not mean that the bucket was rolled back.
func TestChangeWhileThePositionIsAsked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.idle(time.Minute)
	slow := &slowAnswer{JetStream: s.js}
	s.js = slow
	b.run(s)
	for n := range 5 {
		g := group(fmt.Sprint(n))
		done := make(chan struct{})
		change := func() {
			defer close(done)
			b.put(g, bannedRecord)
			eventually(t, "the change is applied", func() bool { return s.ask("u", g) == ChannelBanned })
		}
		slow.meanwhile.Store(&change)
		<-done
		confirmedAgain(t, s)
	}
	require.Zero(t, testutil.ToFloat64(s.metrics.watches), "watches that were begun again")
}
