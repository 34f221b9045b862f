package lease_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lease"
)

// bucket is a broker in memory whose clock jumps, and whose followers lag.
type bucket struct {
	mu       sync.Mutex
	rand     *rand.Rand
	off      time.Duration // of its clock
	revision uint64
	keys     map[string]entry
	older    map[string]entry // what a follower has
	watchers map[*watcher]bool
}

type entry struct {
	key      string
	value    []byte
	revision uint64
	created  time.Time
	deleted  bool
}

func (e entry) Bucket() string     { return "LEASES" }
func (e entry) Key() string        { return e.key }
func (e entry) Value() []byte      { return e.value }
func (e entry) Revision() uint64   { return e.revision }
func (e entry) Created() time.Time { return e.created }
func (e entry) Delta() uint64      { return 0 }
func (e entry) Operation() jetstream.KeyValueOp {
	if e.deleted {
		return jetstream.KeyValueDelete
	}
	return jetstream.KeyValuePut
}

type watcher struct {
	b       *bucket
	updates chan jetstream.KeyValueEntry
	once    sync.Once
}

func (w *watcher) Updates() <-chan jetstream.KeyValueEntry { return w.updates }
func (w *watcher) Stop() error {
	w.once.Do(func() {
		w.b.mu.Lock()
		defer w.b.mu.Unlock()
		delete(w.b.watchers, w)
		close(w.updates)
	})
	return nil
}

// option reads a field of what an option of the client sets.
func option(opt any, field string) reflect.Value {
	f := reflect.ValueOf(opt)
	set := reflect.New(f.Type().In(0).Elem())
	f.Call([]reflect.Value{set})
	return set.Elem().FieldByName(field)
}

func wrongRevision() error {
	return &jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequence, Description: "wrong last sequence"}
}

// connection is an instance's way to the bucket: slow, and sometimes without an answer.
type connection struct {
	jetstream.KeyValue
	b     *bucket
	quiet atomic.Bool // no trouble of its own
	cut   atomic.Bool
}

// call does something at the broker, which may be done without an answer.
func (c *connection) call(ctx context.Context, do func() error) error {
	c.b.mu.Lock()
	there, back := time.Duration(c.b.rand.Int64N(int64(ttl/64))), time.Duration(c.b.rand.Int64N(int64(ttl/64)))
	lost, done := c.b.rand.IntN(50) == 0, c.b.rand.IntN(2) == 0
	c.b.mu.Unlock()
	if c.quiet.Load() {
		there, back, lost = time.Millisecond, time.Millisecond, false
	}
	<-time.After(there)
	cut := c.cut.Load()
	if (cut || lost) && !done {
		<-ctx.Done()
		return ctx.Err()
	}
	c.b.mu.Lock()
	err := do()
	c.b.mu.Unlock()
	if cut || lost {
		<-ctx.Done()
		return ctx.Err()
	}
	<-time.After(back)
	return err
}

func (b *bucket) write(key string, value []byte, deleted bool, expected func(entry) error) (uint64, error) {
	if err := expected(b.keys[key]); err != nil {
		return 0, err
	}
	if b.rand.IntN(3) == 0 {
		b.older = maps.Clone(b.keys)
	}
	b.revision++
	e := entry{key, value, b.revision, time.Now().Add(b.off), deleted}
	b.keys[key] = e
	for w := range b.watchers {
		select {
		case w.updates <- e:
		default: // a watch that misses something
		}
	}
	return b.revision, nil
}

func (c *connection) Create(ctx context.Context, key string, value []byte, _ ...jetstream.KVCreateOpt) (revision uint64, err error) {
	err = c.call(ctx, func() (err error) {
		revision, err = c.b.write(key, value, false, func(e entry) error {
			if e.revision != 0 && !e.deleted {
				return jetstream.ErrKeyExists
			}
			return nil
		})
		return err
	})
	return revision, err
}

func (c *connection) Update(ctx context.Context, key string, value []byte, last uint64) (revision uint64, err error) {
	err = c.call(ctx, func() (err error) {
		revision, err = c.b.write(key, value, false, func(e entry) error {
			if e.revision != last {
				return wrongRevision()
			}
			return nil
		})
		return err
	})
	return revision, err
}

func (c *connection) Delete(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	last := option(opts[0], "revision").Uint()
	return c.call(ctx, func() error {
		_, err := c.b.write(key, nil, true, func(e entry) error {
			if e.revision != last {
				return wrongRevision()
			}
			return nil
		})
		return err
	})
}

func (c *connection) Get(ctx context.Context, key string) (found jetstream.KeyValueEntry, err error) {
	err = c.call(ctx, func() error {
		from := c.b.keys
		if !c.quiet.Load() && c.b.rand.IntN(2) == 0 {
			from = c.b.older
		}
		e := from[key]
		if found = e; e.revision == 0 || e.deleted {
			return jetstream.ErrKeyNotFound
		}
		return nil
	})
	return found, err
}

func (c *connection) Watch(ctx context.Context, _ string, opts ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	w := &watcher{b: c.b, updates: make(chan jetstream.KeyValueEntry, 100)}
	if option(opts[0], "updatesOnly").Bool() {
		c.b.mu.Lock()
		c.b.watchers[w] = true
		c.b.mu.Unlock()
		return w, nil
	}
	return w, c.call(ctx, func() error {
		from := c.b.keys
		if !c.quiet.Load() && c.b.rand.IntN(4) == 0 {
			from = c.b.older
		}
		for _, e := range from {
			if !e.deleted {
				w.updates <- e
			}
		}
		w.updates <- nil
		return nil
	})
}

// holders are the leases under which something is done now.
type holders struct {
	mu     sync.Mutex
	leases map[*lease.Lease]string
}

// check returns an error if two leases of a partition are good at this moment.
func (h *holders) check() (good map[int]string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	good = map[int]string{}
	for l, name := range h.leases {
		if !l.Good() {
			continue
		}
		if other, twice := good[l.Partition]; twice {
			err = errors.Join(err, fmt.Errorf("partition %d is held by %s and %s", l.Partition, name, other))
		}
		good[l.Partition] = name
	}
	return good, err
}

// No two instances hold a partition at one time, and afterwards all partitions are held, whatever the broker's
// clock does, however much the clocks of the instances differ within the bound, and whichever answers are lost.
func TestClocksThatJump(t *testing.T) {
	t.Parallel()
	first, runs := rand.Uint64()>>32, 100
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		first, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		runs = 1
	}
	for seed := first; seed < first+uint64(runs); seed++ {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("replay with: TEST_SEED=%d go test -run '^TestClocksThatJump$' ./pkg/lease", seed)
				}
			}()
			jump(t, rand.New(rand.NewPCG(seed, 1)))
		})
		if t.Failed() {
			return
		}
	}
}

// jump is one run.
func jump(t *testing.T, random *rand.Rand) {
	t.Helper()
	b := &bucket{rand: rand.New(rand.NewPCG(random.Uint64(), 2)), keys: map[string]entry{}, watchers: map[*watcher]bool{}}
	h := &holders{leases: map[*lease.Lease]string{}}
	start := time.Now()
	var connections []*connection
	var stops []func()
	join := func(name string) {
		c := &connection{b: b}
		connections = append(connections, c)
		// Together two clocks differ by 10%, which is less than an eighth.
		rate, offset := 0.95+0.1*random.Float64(), time.Duration(random.Int64N(int64(time.Hour)))+1
		balancer, err := lease.New(c, lease.Config{
			Role: "test", Instance: name, Partitions: partitions, TTL: ttl, Logger: slog.New(slog.DiscardHandler),
			Clock: func() time.Duration { return offset + time.Duration(rate*float64(time.Since(start))) },
		}, func(ctx context.Context, l *lease.Lease) error {
			h.mu.Lock()
			h.leases[l] = name
			h.mu.Unlock()
			<-ctx.Done()
			h.mu.Lock()
			delete(h.leases, l)
			h.mu.Unlock()
			return nil
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- balancer.Run(ctx) }()
		stops = append(stops, func() { cancel(); require.NoError(t, <-done) })
	}
	for n := range 3 {
		join(strconv.Itoa(n))
	}
	for step := range 1500 {
		<-time.After(10 * time.Millisecond)
		_, err := h.check()
		require.NoError(t, err)
		if random.IntN(20) == 0 {
			b.mu.Lock()
			b.off += time.Duration(random.Int64N(int64(800*24*time.Hour))) - 400*24*time.Hour
			b.mu.Unlock()
		}
		if c := connections[random.IntN(len(connections))]; random.IntN(70) == 0 {
			c.cut.Store(!c.cut.Load())
		}
		if step == 500 {
			connections[0].cut.Store(true) // for ever: it is dead to the others
			connections = connections[1:]
			join("another")
		}
	}
	for _, c := range connections {
		c.cut.Store(false)
		c.quiet.Store(true)
	}
	<-time.After(4 * ttl)
	good, err := h.check()
	require.NoError(t, err)
	require.Len(t, good, partitions)
	for _, stop := range stops {
		stop()
	}
	_, err = h.check()
	require.NoError(t, err)
}

// On a real broker a dead owner's partition is taken once the observer's own clock has seen its key unchanged for
// the owner's time to live, whatever times the broker has given its records.
func TestDeadOwnerByTheObserversClock(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	_, err := f.kv.Put(t.Context(), "test.member.0", []byte(`{"instance":"dead","ttl_ms":60000}`))
	require.NoError(t, err)
	for p := range partitions {
		_, err := f.kv.Put(t.Context(), "test.partition."+strconv.Itoa(p), []byte(`{"instance":"dead","ttl_ms":60000}`))
		require.NoError(t, err)
	}
	var clock atomic.Int64
	clock.Store(int64(time.Hour))
	f.clock = func() time.Duration { return time.Duration(clock.Load()) }
	f.join("a")
	rounds, err := f.kv.Watch(t.Context(), "test.member.1", jetstream.UpdatesOnly())
	require.NoError(t, err)
	for range 3 { // it takes part, and its share would be half
		<-rounds.Updates()
	}
	clock.Add(int64(59 * time.Second))
	for range 3 {
		<-rounds.Updates()
	}
	f.await(map[string]int{})
	clock.Add(int64(time.Second))
	f.await(map[string]int{"a": partitions})
	_, err = f.kv.Get(t.Context(), "test.member.0")
	require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
}

// An instance that was paused past its deadline uses its lease no more before the broker has confirmed it. If
// no other has taken it meanwhile it has it again at once.
func TestAwaitAfterASuspend(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var clock atomic.Int64
	clock.Store(int64(time.Hour))
	type holding struct {
		ctx context.Context
		l   *lease.Lease
	}
	holdings := make(chan holding, 1)
	b, err := lease.New(f.kv, lease.Config{
		Role: "test", Instance: "a", Partitions: 1, TTL: time.Hour, Logger: slog.New(slog.DiscardHandler),
		Clock: func() time.Duration { return time.Duration(clock.Load()) },
	}, func(ctx context.Context, l *lease.Lease) error {
		holdings <- holding{ctx, l}
		<-ctx.Done()
		return nil
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	h := <-holdings
	l := h.l
	require.True(t, l.Good())
	clock.Add(int64(2 * time.Hour)) // a suspend: no timer of the process has run
	require.False(t, l.Good())
	require.True(t, l.Await(h.ctx), "renewed at once, though the next renewal was due in a quarter of an hour")
	require.True(t, l.Good())

	clock.Add(int64(2 * time.Hour))
	_, err = f.kv.Put(t.Context(), "test.partition.0", []byte(`{"instance":"b"}`))
	require.NoError(t, err)
	require.False(t, l.Await(h.ctx))
	require.ErrorIs(t, context.Cause(h.ctx), lease.ErrLost)
	cancel()
	require.NoError(t, <-done)
}
