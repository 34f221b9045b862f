package writer

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// shareNothing makes a writer believe that all partitions are its own, as one does that was paused while
// its leases expired.
func (s *Service) shareNothing(ctx context.Context, hold holdFunc) error {
	var holds sync.WaitGroup
	for p := range s.deps.Partitions {
		holds.Go(func() { hold(ctx, holding{partition: p, epoch: 1, good: func() bool { return true }}) })
	}
	s.joined()
	holds.Wait()
	return nil
}

// slowStore is a store whose first insert waits until it is let go, and then takes no notice of having been
// given up.
type slowStore struct {
	store
	held, release chan struct{}
	mu            sync.Mutex
	once          bool
}

func newSlowStore(s store) *slowStore {
	return &slowStore{store: s, held: make(chan struct{}), release: make(chan struct{})}
}

func (s *slowStore) Insert(ctx context.Context, b *clickhouse.Block, first, end int, token string) error {
	s.mu.Lock()
	slow := !s.once
	s.once = true
	s.mu.Unlock()
	if slow {
		close(s.held)
		<-s.release
		ctx = context.WithoutCancel(ctx)
	}
	return s.store.Insert(ctx, b, first, end, token)
}

// A writer that was away while another one did its work comes back in the middle of an insert: the token
// absorbs the rows, and the position refuses its claim.
func TestZombie(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 100
	zombie := b.service(cfg)
	zombie.share = zombie.shareNothing
	slow := newSlowStore(zombie.store)
	zombie.store = slow
	b.publish(0, 1, 1000)
	stopZombie := b.start(zombie)
	b.stopMerges(cfg)
	<-slow.held

	heir := b.service(cfg)
	stopHeir := b.start(heir)
	b.waitDone(0, 1000)
	close(slow.release)
	for valueOf(t, zombie.metrics.partitions[0].fenced) == 0 {
		require.NoError(t, b.ctx.Err())
		b.waitStatus(zombie, 0, stateRunning) // it has seen the others' position and continues from there
	}
	b.publish(0, 1001, 1500)
	b.waitDone(0, 1500)
	require.NoError(t, stopZombie())
	require.NoError(t, stopHeir())
	b.requireEachOnce(cfg, 1500)
}

// A writer that loses its lease in the middle of an insert records nothing more: its successor repeats the
// insert, and the token absorbs what arrives late.
func TestLeaseLostInMidInsert(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 100
	first := b.service(cfg)
	slow := newSlowStore(first.store)
	first.store = slow
	b.publish(0, 1, 500)
	stopFirst := b.start(first)
	b.stopMerges(cfg)
	<-slow.held
	second := b.service(cfg)
	stopSecond := b.start(second)

	kv, err := b.js.KeyValue(b.ctx, topology.WriterLeaseBucket)
	require.NoError(t, err)
	require.NoError(t, kv.Delete(b.ctx, leaseRole+".member.0")) // the other one's share is all now
	require.NoError(t, kv.Delete(b.ctx, leaseRole+".partition.0"))
	b.waitDone(0, 500)
	before := b.recorded(0)
	require.Equal(t, second.name, before.Writer)
	close(slow.release)
	require.NoError(t, stopFirst())
	require.Equal(t, before, b.recorded(0), "nothing is recorded by the one that lost the partition")
	b.publish(0, 501, 600)
	b.waitDone(0, 600)
	require.NoError(t, stopSecond())
	b.requireEachOnce(cfg, 600)
	state, err := lease.List(b.ctx, kv, leaseRole)
	require.NoError(t, err)
	require.Empty(t, state.Owners)
}

// Two writers that both believe a partition to be theirs take turns at refusing each other, and still
// each row goes in once.
func TestTwoWritersOfOnePartition(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 50
	one, two := b.service(cfg), b.service(cfg)
	one.share, two.share = one.shareNothing, two.shareNothing
	stopOne := b.start(one)
	b.stopMerges(cfg)
	stopTwo := b.start(two)
	const burst = 200
	for n := range 10 {
		b.publish(0, n*burst+1, (n+1)*burst)
		b.waitDone(0, uint64(n+1)*burst)
	}
	require.NoError(t, stopOne())
	require.NoError(t, stopTwo())
	fenced := valueOf(t, one.metrics.partitions[0].fenced) + valueOf(t, two.metrics.partitions[0].fenced)
	require.Positive(t, fenced, "they never met")
	b.requireEachOnce(cfg, 10*burst)
}
