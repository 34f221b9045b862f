package writer

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// holding is a store whose first insert waits until it is let go.
type holding struct {
	store
	held, release chan struct{}
	once          bool
}

func (s *holding) Insert(ctx context.Context, b *clickhouse.Block, first, end int, token string) error {
	if !s.once {
		s.once = true
		close(s.held)
		<-s.release
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
	hold := &holding{store: zombie.store, held: make(chan struct{}), release: make(chan struct{})}
	zombie.store = hold
	b.publish(0, 1, 1000)
	stopZombie := b.start(zombie)
	b.stopMerges(cfg)
	<-hold.held

	heir := b.service(cfg)
	stopHeir := b.start(heir)
	b.waitDone(0, 1000)
	close(hold.release)
	for valueOf(t, zombie.metrics.partitions[0].fenced) == 0 {
		require.NoError(t, b.ctx.Err())
		b.waitStatus(zombie, 0, stateRunning) // it has seen the others' position and goes on from there
	}
	b.publish(0, 1001, 1500)
	b.waitDone(0, 1500)
	require.NoError(t, stopZombie())
	require.NoError(t, stopHeir())
	b.requireEachOnce(cfg, 1500)
}

// Two writers that both believe a partition to be theirs take turns at refusing each other, and still
// each row goes in once.
func TestTwoWritersOfOnePartition(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 50
	one, two := b.service(cfg), b.service(cfg)
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
