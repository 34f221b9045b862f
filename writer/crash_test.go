package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// step is a call of the writer to a neighbour that changes something.
type step string

const (
	stepRecord  step = "record"  // a range becomes pending
	stepInsert  step = "insert"  // its rows are inserted
	stepAdvance step = "advance" // the position moves past it
)

var errFault = errors.New("fault")

// faults makes calls fail. A crash is a fault after which nothing has any effect: the process is gone, and
// only the test does not know it yet.
type faults struct {
	at      step
	applied bool // the call has its effect, only its answer is lost
	crash   bool
	strike  func(do func() error) error // instead of all that
	skip    atomic.Int32                // calls of this step that go well before
	hit     chan struct{}
	fired   atomic.Bool
	dead    atomic.Bool
}

func newFaults(at step, applied, crash bool, skip int32) *faults {
	f := &faults{at: at, applied: applied, crash: crash, hit: make(chan struct{})}
	f.skip.Store(skip)
	return f
}

// dieInInsert has a writer die in the insert that comes behind skip others, before or after ClickHouse has its rows.
func (b *bundle) dieInInsert(cfg Config, inserted bool, skip int32) {
	b.t.Helper()
	s := b.service(cfg)
	f := newFaults(stepInsert, inserted, true, skip)
	f.inject(s)
	stop := b.start(s)
	b.stopMerges(cfg)
	<-f.hit
	require.NoError(b.t, stop())
}

// call runs do as the plan says.
func (f *faults) call(at step, do func() error) error {
	if f.dead.Load() {
		return errFault
	}
	if at != f.at || f.skip.Add(-1) >= 0 || f.fired.Swap(true) {
		return do()
	}
	defer close(f.hit)
	if f.strike != nil {
		return f.strike(do)
	}
	if f.crash {
		defer f.dead.Store(true)
	}
	if f.applied {
		if err := do(); err != nil {
			return err
		}
	}
	return errFault
}

// faultStore and faultBucket are the neighbours with faults.
type faultStore struct {
	store
	faults *faults
}

func (s *faultStore) Insert(ctx context.Context, b *clickhouse.Block, first, end int, token string) error {
	return s.faults.call(stepInsert, func() error { return s.store.Insert(ctx, b, first, end, token) })
}

type faultBucket struct {
	bucket
	faults *faults
}

func (k *faultBucket) write(value []byte, do func() error) error {
	at := stepAdvance
	var p position
	if err := json.Unmarshal(value, &p); err != nil {
		return err
	}
	if p.Pending != nil {
		at = stepRecord
	} else if p.Done == 0 {
		return do() // the first record of a partition
	}
	return k.faults.call(at, do)
}

func (k *faultBucket) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (revision uint64, err error) {
	err = k.write(value, func() error {
		revision, err = k.bucket.Create(ctx, key, value, opts...)
		return err
	})
	return revision, err
}

func (k *faultBucket) Update(ctx context.Context, key string, value []byte, last uint64) (revision uint64, err error) {
	err = k.write(value, func() error {
		revision, err = k.bucket.Update(ctx, key, value, last)
		return err
	})
	return revision, err
}

func (k *faultBucket) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if k.faults.dead.Load() {
		return nil, errFault
	}
	return k.bucket.Get(ctx, key)
}

// inject puts the faults into a service.
func (f *faults) inject(s *Service) {
	s.store = &faultStore{store: s.store, faults: f}
	open := s.bucket
	s.bucket = func(ctx context.Context) (bucket, error) {
		kv, err := open(ctx)
		return &faultBucket{bucket: kv, faults: f}, err
	}
}

func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	faultCases(t, true, func(t *testing.T, b *bundle, f *faults, cfg Config) {
		cfg.WriterStopTimeout = 10 * time.Millisecond // nothing that it does then has an effect
		s := b.service(cfg)
		f.inject(s)
		stop := b.start(s)
		b.stopMerges(cfg)
		last := b.publishUntil(f.hit)
		require.NoError(t, stop())

		stop = b.start(b.service(b.config(cfg.ClickHouseDSN)))
		b.waitDone(0, last)
		require.NoError(t, stop())
		b.requireEachOnce(cfg, last)
	})
}

func TestLostAnswerAtEveryStep(t *testing.T) {
	t.Parallel()
	faultCases(t, false, func(t *testing.T, b *bundle, f *faults, cfg Config) {
		s := b.service(cfg)
		f.inject(s)
		stop := b.start(s)
		b.stopMerges(cfg)
		last := b.publishUntil(f.hit)
		b.waitDone(0, last)
		require.NoError(t, s.Check())
		require.NoError(t, stop())
		b.requireEachOnce(cfg, last)
	})
}

// faultCases runs a test for every step, failing with and without effect, at the first call and at a later
// one.
func faultCases(t *testing.T, crash bool, test func(t *testing.T, b *bundle, f *faults, cfg Config)) {
	for _, at := range []step{stepRecord, stepInsert, stepAdvance} {
		for _, applied := range []bool{false, true} {
			for _, skip := range []int32{0, 2} {
				t.Run(fmt.Sprintf("%s/applied=%t/skip=%d", at, applied, skip), func(t *testing.T) {
					t.Parallel()
					b := setup(t, 1)
					cfg := b.full()
					cfg.FlushRowsMax = 100
					test(t, b, newFaults(at, applied, crash, skip), cfg)
				})
			}
		}
	}
}

// publishUntil appends records, in bursts of several batches with a pause in which the position can move
// alone, until the fault has struck and one burst more. Records hold one message, or many, or none, so that batches end within them. The answer is the place of
// the last message.
func (b *bundle) publishUntil(hit <-chan struct{}) (last uint64) {
	const burst = 250
	for done := false; ; last += burst {
		b.publishRecords(int(last)+1, int(last)+burst)
		if done {
			return last + burst
		}
		done = b.waitDoneOr(0, last+burst, hit)
	}
}
