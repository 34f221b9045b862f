package permission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// testTimeout bounds every wait; no test takes this long unless it fails.
const testTimeout = 30 * time.Second

// bundle is a real server with the bucket.
type bundle struct {
	t      testing.TB
	dir    string
	addr   string
	server *broker.Embedded
	js     jetstream.JetStream
	kv     jetstream.KeyValue
}

func setup(t testing.TB) *bundle {
	t.Helper()
	b := &bundle{t: t, dir: t.TempDir()}
	b.start("127.0.0.1:0")
	b.addr = b.server.URL()[len("nats://"):]
	_, b.js = b.connect()
	b.makeBucket()
	return b
}

func (b *bundle) makeBucket() {
	b.t.Helper()
	var err error
	for _, bucket := range topology.DefaultOptions().BucketConfigs() {
		switch bucket.Bucket {
		case topology.PermissionBucket:
			b.kv, err = b.js.CreateKeyValue(b.t.Context(), bucket)
			require.NoError(b.t, err)
		case topology.DeploymentBucket: // has the mark
			_, err := b.js.CreateOrUpdateKeyValue(b.t.Context(), bucket)
			require.NoError(b.t, err)
		}
	}
}

func (b *bundle) start(addr string) {
	b.t.Helper()
	var err error
	b.server, err = broker.StartEmbedded(broker.EmbeddedConfig{DataDir: b.dir, Addr: addr, StoreBytesMax: 8 << 30, Logger: quiet()})
	require.NoError(b.t, err)
	b.t.Cleanup(b.server.Shutdown)
	if b.js != nil {
		eventually(b.t, "connected again", func() bool { return b.js.Conn().IsConnected() })
	}
}

func (b *bundle) connect() (*nats.Conn, jetstream.JetStream) {
	b.t.Helper()
	nc, js, err := broker.Connect(b.t.Context(), broker.Config{URL: b.server.URL(), Options: []nats.Option{b.server.Operator()}, Name: b.t.Name(), Logger: quiet()})
	require.NoError(b.t, err)
	b.t.Cleanup(nc.Close)
	return nc, js
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// store runs a store on a connection of its own, as another process would.
func (b *bundle) store() *Store {
	b.t.Helper()
	s := b.idle(30 * time.Second)
	b.run(s)
	return s
}

func (b *bundle) idle(staleMax time.Duration) *Store {
	b.t.Helper()
	_, js := b.connect()
	s, err := New(Config{UndefinedChannels: undefinedAllow, StaleMax: staleMax}, Deps{JetStream: js, Logger: quiet(), Registerer: prometheus.NewRegistry()})
	require.NoError(b.t, err)
	return s
}

func (b *bundle) run(s *Store) (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	b.t.Cleanup(stop)
	select {
	case <-s.Ready():
	case <-time.After(testTimeout):
		b.t.Fatal("not ready")
	}
	return stop
}

func (b *bundle) change(s *Store, ch Channel, e Edit) {
	b.t.Helper()
	require.NoError(b.t, s.Change(b.t.Context(), ch, e))
}

// eventually waits for a condition that another goroutine establishes.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, testTimeout, time.Millisecond, what)
}

func group(name string) Channel { return Channel{Type: message.ChannelGroup, Name: name} }

func define(uids ...string) Edit {
	e := Edit{Raise: FlagDefined}
	e.Lists[Subscribers].Add = uids
	return e
}

func replace(l List, uids ...string) (e Edit) {
	e.Lists[l] = ListEdit{Clear: true, Add: uids}
	return e
}

func (s *Store) ask(from string, ch Channel) Verdict {
	return s.Decide(Send{From: from, Type: ch.Type, Name: ch.Name})
}

func numbered(prefix string, n int) (uids []string) {
	for i := range n {
		uids = append(uids, fmt.Sprintf("%s-%07d", prefix, i))
	}
	return uids
}

// keys counts the bucket's keys by kind.
func (b *bundle) keys() (channels, pages int) {
	b.t.Helper()
	lister, err := b.kv.ListKeys(b.t.Context())
	require.NoError(b.t, err)
	for key := range lister.Keys() {
		parsed, err := parseKey(key)
		require.NoError(b.t, err)
		if parsed.isPage {
			pages++
		} else {
			channels++
		}
	}
	return channels, pages
}

func TestChangeIsInForce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	here, there := b.store(), b.store()
	g := group("g.*> é")
	require.Equal(t, Allowed, here.ask("u", g), "the channel is not defined")

	b.change(here, g, define("u"))
	require.Equal(t, NotSubscribed, here.ask("v", g), "at once where it was made")
	require.Equal(t, Allowed, here.ask("u", g))
	eventually(t, "in force elsewhere", func() bool { return there.ask("v", g) == NotSubscribed })

	b.change(there, g, define("v"))
	require.Equal(t, Allowed, there.ask("v", g))
	eventually(t, "and back", func() bool { return here.ask("v", g) == Allowed })

	b.change(here, SystemAccounts(), define("s"))
	require.Equal(t, Allowed, here.ask("s", g))
	b.change(here, SystemAccounts(), Edit{Lists: [lists]ListEdit{Subscribers: {Remove: []string{"s"}}}})
	require.Equal(t, NotSubscribed, here.ask("s", g))

	again := b.store()
	require.Equal(t, Allowed, again.ask("v", g), "a start knows everything")
	require.Equal(t, NotSubscribed, again.ask("w", g))
	require.EqualValues(t, 2, again.cache.Load().channels.Load())
	require.EqualValues(t, 2, again.cache.Load().members.Load())
	require.Equal(t, here.cache.Load().bytes.Load(), again.cache.Load().bytes.Load(), "the books do not drift")
}

// TestLargeList takes a list through its life, and checks what remains of it in the bucket.
func TestLargeList(t *testing.T) {
	t.Parallel()
	b := setup(t)
	here, there := b.store(), b.store()
	g := group("large")
	uids := numbered("member", 40_000)
	for i := 0; i < len(uids); i += 10_000 {
		b.change(here, g, define(uids[i:i+10_000]...))
	}
	same := func(s *Store, members, pages int) {
		t.Helper()
		eventually(t, "in force", func() bool { return s.cache.Load().members.Load() == int64(members) })
		for i, uid := range uids {
			want := Allowed
			if i >= members {
				want = NotSubscribed
			}
			require.Equal(t, want, s.ask(uid, g), "%s", uid)
		}
		channels, stored := b.keys()
		require.Equal(t, 1, channels)
		require.Equal(t, pages, stored, "replaced pages are gone")
		require.Zero(t, s.loose.count())
	}
	pages := len(here.cache.Load().Policy(g).List(Subscribers).leaves)
	require.Greater(t, pages, 8)
	same(here, 40_000, pages)
	same(there, 40_000, pages)
	same(b.store(), 40_000, pages)

	b.change(there, g, define("one more"))
	require.Equal(t, Allowed, there.ask("one more", g))
	b.change(there, g, Edit{Lists: [lists]ListEdit{Subscribers: {Remove: []string{"one more"}}}})
	same(there, 40_000, pages)

	b.change(here, g, replace(Subscribers, uids[:100]...))
	same(here, 100, 0)
	same(there, 100, 0)
	same(b.store(), 100, 0)
	require.Equal(t, here.cache.Load().bytes.Load(), there.cache.Load().bytes.Load())
}

// TestConcurrentChanges lets two instances change one channel at the same time. No acknowledged change may be lost.
func TestConcurrentChanges(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stores := []*Store{b.store(), b.store()}
	g := group("g")
	b.change(stores[0], g, define(numbered("first", 3_000)...)) // paged
	var all sync.WaitGroup
	var failed sync.Map
	for n := range 8 {
		all.Go(func() {
			for i := range 15 {
				s := stores[n%2]
				uid := fmt.Sprintf("%d-%d", n, i)
				if err := s.Change(t.Context(), g, define(uid, "passing-"+uid)); err != nil {
					failed.Store(uid, err)
					continue
				}
				if s.ask(uid, g) != Allowed {
					failed.Store(uid, "not in force where it was answered")
				}
				if err := s.Change(t.Context(), g, Edit{Lists: [lists]ListEdit{Subscribers: {Remove: []string{"passing-" + uid}}}}); err != nil {
					failed.Store(uid, err)
				}
			}
		})
	}
	all.Wait()
	failed.Range(func(uid, why any) bool {
		t.Errorf("%v: %v", uid, why)
		return true
	})
	last := b.store()
	require.EqualValues(t, 3_000+8*15, last.cache.Load().members.Load())
	for n := range 8 {
		for i := range 15 {
			require.Equal(t, Allowed, last.ask(fmt.Sprintf("%d-%d", n, i), g))
			require.Equal(t, NotSubscribed, last.ask(fmt.Sprintf("passing-%d-%d", n, i), g))
		}
	}
	_, pages := b.keys()
	require.Len(t, last.cache.Load().Policy(g).List(Subscribers).leaves, pages, "no page is left over")
}

// TestResetIsOneChange reads a list continuously while it is replaced: it is the old or the new one, never a part.
func TestResetIsOneChange(t *testing.T) {
	t.Parallel()
	b := setup(t)
	here, there := b.store(), b.store()
	g := group("g")
	both := append(numbered("a", 5_000), "always")
	b.change(here, g, define(both...))
	eventually(t, "in force", func() bool { return there.ask("always", g) == Allowed })
	stop, stopped := make(chan struct{}), make(chan Verdict, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- Allowed
				return
			default:
				if v := there.ask("always", g); v != Allowed {
					stopped <- v
					return
				}
			}
		}
	}()
	for n := range 10 {
		b.change(here, g, replace(Subscribers, append(numbered(fmt.Sprint(n), 5_000), "always")...))
	}
	close(stop)
	require.Equal(t, Allowed, <-stopped)
}

// TestDeathBetweenPagesAndRecord: a change whose process dies half way has no effect, and the pages that it left are
// swept.
func TestDeathBetweenPagesAndRecord(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dying, other := b.store(), b.store()
	g := group("g")
	b.change(dying, g, define("u"))

	base := dying.cache.Load().Policy(g)
	next, err := base.edit(define(numbered("new", 5_000)...))
	require.NoError(t, err)
	pages, err := dying.storePages(t.Context(), g, next)
	require.NoError(t, err)
	require.NotEmpty(t, pages)

	last := b.store()
	require.Equal(t, NotSubscribed, last.ask("new-0000001", g), "nothing has changed")
	require.Equal(t, Allowed, last.ask("u", g))
	require.Equal(t, len(pages), last.loose.count())
	require.NoError(t, last.sweepOnce(t.Context(), time.Hour))
	_, stored := b.keys()
	require.Equal(t, len(pages), stored, "not old enough")
	require.NoError(t, last.sweepOnce(t.Context(), 0))
	_, stored = b.keys()
	require.Zero(t, stored)
	require.Zero(t, last.loose.count())
	require.Equal(t, Allowed, last.ask("u", g))

	// The process that seemed dead continues, too late.
	_, err = dying.storeRecord(t.Context(), g, next, base)
	require.ErrorIs(t, err, errConflict)
	require.NoError(t, dying.sync(t.Context()))
	require.Equal(t, Allowed, dying.ask("u", g))

	// Other processes forget the pages, too.
	require.NoError(t, other.sync(t.Context()))
	require.NoError(t, other.sweepOnce(t.Context(), 0))
	require.Zero(t, other.loose.count())
}

// TestDeathBetweenRecordAndPurge: the change is in force, and the pages that it replaced are found at a later start.
func TestDeathBetweenRecordAndPurge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dying := b.store()
	g := group("g")
	b.change(dying, g, define(numbered("m", 5_000)...))
	base := dying.cache.Load().Policy(g)
	next, err := base.edit(replace(Subscribers, "u"))
	require.NoError(t, err)
	_, err = dying.storeRecord(t.Context(), g, next, base)
	require.NoError(t, err)

	last := b.store()
	require.Equal(t, Allowed, last.ask("u", g))
	require.NoError(t, last.sweepOnce(t.Context(), 0))
	_, stored := b.keys()
	require.Zero(t, stored)
	require.Equal(t, Allowed, last.ask("u", g))
	require.Equal(t, NotSubscribed, last.ask("m-0000001", g))
}

// TestStale: without NATS the cache may be used for StaleMax; after that no send is decided on.
func TestStale(t *testing.T) {
	t.Parallel()
	b := setup(t)
	g := group("g")
	b.change(b.store(), g, define("u"))
	s := b.idle(time.Second)
	b.run(s)
	require.Equal(t, NotSubscribed, s.ask("v", g))

	b.server.Shutdown()
	require.Equal(t, NotSubscribed, s.ask("v", g), "the cache stands")
	err := s.Change(t.Context(), g, define("v"))
	require.Error(t, err)
	eventually(t, "too old", func() bool { return s.ask("v", g) == Unavailable })
	require.ErrorIs(t, s.Check(), ErrNotReady)
	require.Equal(t, Unavailable, s.ask("u", g))
	_, err = s.Policy(g)
	require.ErrorIs(t, err, ErrNotReady)

	b.start(b.addr)
	eventually(t, "NATS is back", func() bool { return s.ask("u", g) == Allowed })
	b.change(s, g, define("v"))
	require.Equal(t, Allowed, s.ask("v", g))
}

// TestServerRestarts: changes that other processes make while this one cannot reach NATS are in force once it
// can.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	g := group("g")
	s := b.store()
	for n := range 3 {
		b.server.Shutdown()
		b.start(b.addr)
		uid := fmt.Sprint("u", n)
		require.Eventually(t, func() bool { return s.Change(t.Context(), g, define(uid)) == nil }, testTimeout, time.Millisecond)
		require.Equal(t, Allowed, s.ask(uid, g))
		require.Equal(t, Allowed, b.store().ask(uid, g))
	}
}

// TestBucketReplaced: a bucket that was created again or restored is read from its beginning.
func TestBucketReplaced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.store()
	g, h := group("g"), group("h")
	b.change(s, g, define("u"))
	b.change(s, h, define("u"))
	require.NoError(t, b.js.DeleteKeyValue(t.Context(), topology.PermissionBucket))
	b.makeBucket()
	_, err := b.kv.Put(t.Context(), h.key(), []byte(`{"v":1,"defined":true,"subscribers":{"count":1,"uids":["v"]}}`))
	require.NoError(t, err)
	eventually(t, "the new bucket has less than the one of before", func() bool { return errors.Is(s.Check(), ErrNotWhole) })
	require.Equal(t, Unavailable, s.ask("v", h))
	b.repair(1)
	eventually(t, "the new bucket counts", func() bool { return s.ask("v", h) == Allowed && s.ask("u", h) == NotSubscribed })
	require.Equal(t, Allowed, s.ask("anybody", g), "nothing is known of it any more")
	b.change(s, g, define("u"))
	require.Equal(t, NotSubscribed, s.ask("anybody", g))
}

// TestNoBucket: a store started without the bucket decides nothing, reports why, and recovers when the bucket exists.
func TestNoBucket(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.js.DeleteKeyValue(t.Context(), topology.PermissionBucket))
	s := b.idle(time.Second)
	require.Equal(t, Unavailable, s.ask("u", group("g")), "before Run")
	go func() {
		b.makeBucket()
	}()
	b.run(s)
	require.Equal(t, Allowed, s.ask("u", group("g")))
}

// TestDeadWatch: a watch that fails silently is replaced within a second.
func TestDeadWatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, other := b.store(), b.store()
	g := group("g")
	b.change(other, g, define("u"))
	eventually(t, "in force", func() bool { return s.ask("v", g) == NotSubscribed })

	// Both watches lose their consumers; no client is notified before it misses a heartbeat.
	stream, err := b.js.Stream(t.Context(), bucketStream)
	require.NoError(t, err)
	for consumer := range stream.ListConsumers(t.Context()).Info() {
		require.NoError(t, stream.DeleteConsumer(t.Context(), consumer.Name))
	}
	_, err = b.kv.Put(t.Context(), g.key(), []byte(`{"v":1,"defined":true,"subscribers":{"count":1,"uids":["v"]}}`))
	require.NoError(t, err)
	put := time.Now()
	eventually(t, "in force all the same", func() bool { return s.ask("v", g) == Allowed && other.ask("v", g) == Allowed })
	t.Logf("seen after %s", time.Since(put))
}

// TestForeignKeys: unexpected content in the bucket affects no channel but its own.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.store()
	g, h := group("g"), group("h")
	b.change(s, g, define("u"))
	for _, key := range []string{"x", "channel.2", "channel.x.y", "channel.2.a=4", "page.2.g.subscribers.zz", "page.2.g.other.12"} {
		_, err := b.kv.Put(t.Context(), key, []byte("?"))
		require.NoError(t, err)
	}
	_, err := b.kv.Put(t.Context(), h.key(), []byte(`{"v":1,"subscribers":{"count":1,"pages":[{"from":0,"id":"1"}]}}`))
	require.NoError(t, err)
	eventually(t, "damaged", func() bool { return s.ask("u", h) == Unavailable })
	require.Equal(t, Allowed, s.ask("u", g))
	require.NoError(t, s.Check())
	_, err = s.Policy(h)
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorIs(t, s.Change(t.Context(), h, define("u")), ErrDamaged)
	b.change(s, h, replace(Subscribers, "u"))
	require.Equal(t, Allowed, s.ask("u", h), "mended")

	require.NoError(t, b.kv.Delete(t.Context(), h.key()))
	eventually(t, "deleted by hand", func() bool { return s.ask("w", h) == Unavailable && s.ask("u", h) == Unavailable })
	b.change(s, h, define("u"))
	require.Equal(t, Allowed, s.ask("u", h), "defined again")
	require.Equal(t, NotSubscribed, s.ask("w", h))
}

// TestEmptyPolicyIsForgotten: an empty policy takes no memory in any process, and the channel can be given another policy,
// by a process that knew the old one and by one that did not.
func TestEmptyPolicyIsForgotten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, other := b.store(), b.store()
	g := group("g")
	known := func(s *Store) int64 { return s.cache.Load().channels.Load() }
	deny := Edit{}
	deny.Lists[Denylist].Add = numbered("u", 3000) // more than fits into the record
	for n := range 3 {
		b.change(s, g, deny)
		eventually(t, "in force", func() bool { return known(other) == 1 })
		b.change(other, g, replace(Denylist))
		eventually(t, "forgotten", func() bool { return known(s) == 0 && known(other) == 0 })
		for _, s := range []*Store{s, other} {
			require.Zero(t, s.cache.Load().bytes.Load())
			require.Zero(t, s.cache.Load().members.Load())
		}
		channels, pages := b.keys()
		require.Equal(t, 1, channels, "round %d: an empty record stays", n)
		require.Zero(t, pages)
	}
	late := b.store()
	require.Zero(t, known(late))
	b.change(late, g, define("u"))
	eventually(t, "in force", func() bool { return s.ask("v", g) == NotSubscribed && other.ask("u", g) == Allowed })

	b.change(s, SystemAccounts(), define("root"))
	require.True(t, s.cache.Load().System("root"))
}
