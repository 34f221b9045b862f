package writer

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// awaitOwners waits until the partitions are shared as wanted, given as the number of each writer.
func (b *bundle) awaitOwners(want map[*Service]int) {
	b.t.Helper()
	testkit.WaitFor(b.t, 30*time.Second, "the partitions to be shared", func(ctx context.Context) error {
		all, err := Status(ctx, b.js, b.partitions)
		if err != nil {
			return err
		}
		have := make(map[string]int)
		for _, p := range all {
			have[p.Owner]++
		}
		for s, n := range want {
			if have[s.name] != n {
				return fmt.Errorf("want %d of %s, have %v", n, s.name, have)
			}
		}
		return nil
	})
}

// Writers come and go while messages flow. The shares stay even, a leave is seen at once, and each message
// goes in once.
func TestWritersShareThePartitions(t *testing.T) {
	t.Parallel()
	const partitions = 5
	b := setup(t, partitions)
	cfg := b.full()
	cfg.FlushRowsMax = 20
	cfg.WriterLeaseTTL = 5 * time.Minute // neither a join nor a leave waits for a renewal or an expiry
	published := 0
	flow := func(want map[*Service]int) {
		const burst = 100
		for p := range partitions {
			b.publish(p, published+1, published+burst)
		}
		published += burst
		b.awaitOwners(want)
		for p := range partitions {
			b.waitDone(p, uint64(published))
		}
	}
	one, two, three := b.service(cfg), b.service(cfg), b.service(cfg)
	stopOne := b.start(one)
	b.stopMerges(cfg)
	flow(map[*Service]int{one: 5})
	stopTwo := b.start(two)
	flow(map[*Service]int{one: 3, two: 2})
	stopThree := b.start(three)
	flow(map[*Service]int{one: 2, two: 2, three: 1})
	for _, s := range []*Service{one, two, three} {
		testkit.WaitFor(t, time.Minute, "a writer to be well", func(context.Context) error { return s.Check() }) // it asks ClickHouse about the table first
	}
	require.NoError(t, stopOne())
	flow(map[*Service]int{two: 3, three: 2})
	require.NoError(t, stopTwo())
	flow(map[*Service]int{three: 5})
	require.NoError(t, stopThree())

	rows, different := openTable(t, cfg.ClickHouseDSN).counts() // no writer died, so not even FINAL is needed
	require.EqualValues(t, partitions*published, rows)
	require.EqualValues(t, partitions*published, different)
}

// A writer beyond the number of partitions is ready, holds nothing, and shows no gauges of partitions.
func TestWriterWithoutPartitions(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	one, two := b.service(cfg), b.service(cfg)
	stopOne, stopTwo := b.start(one), b.start(two)
	b.publish(0, 1, 10)
	b.waitDone(0, 10)
	require.NoError(t, two.Check())
	families, err := two.deps.Registerer.(interface {
		Gather() ([]*dto.MetricFamily, error)
	}).Gather()
	require.NoError(t, err)
	for _, f := range families {
		require.NotContains(t, []string{"sendhouse_writer_lease_epoch", "sendhouse_writer_lag_messages", "sendhouse_writer_partition_state"}, f.GetName())
	}
	require.NoError(t, stopOne())
	b.publish(0, 11, 20)
	b.waitDone(0, 20)
	require.NoError(t, stopTwo())
	b.requireEachOnce(cfg, 20)
}

// A process started again under a name that only it can have takes what it held before it died at once.
func TestSoleWriterTakesUpAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	cfg := b.full()
	cfg.WriterLeaseTTL = time.Minute
	first := b.service(cfg)
	stopFirst := b.start(first)
	b.publish(0, 1, 10)
	b.waitDone(0, 10)
	require.NoError(t, stopFirst())
	kv, err := b.js.KeyValue(b.ctx, topology.WriterLeaseBucket)
	require.NoError(t, err)
	for _, key := range []string{"member.embedded", "partition.0", "partition.1"} { // as a kill -9 leaves them
		_, err := kv.Put(b.ctx, leaseRole+"."+key, []byte(`{"instance":"embedded"}`))
		require.NoError(t, err)
	}
	again := b.service(cfg)
	again.deps.Instance = "embedded"
	stop := b.start(again)
	b.publish(0, 11, 20)
	b.waitDone(0, 20)
	require.NoError(t, stop())
	b.requireEachOnce(cfg, 20)
}

func TestStatus(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	_, err := Status(b.ctx, b.js, 2)
	require.ErrorContains(t, err, "has a writer been started?")

	cfg := b.full()
	cfg.WriterLeaseTTL = time.Second
	s := b.service(cfg)
	stop := b.start(s)
	b.publish(0, 1, 10)
	b.waitDone(0, 10)
	b.recreate(0)
	b.publish(0, 1, 15) // other content: the partition is paused, and says so with the next renewal
	var all []PartitionStatus
	testkit.WaitFor(t, 30*time.Second, "the state to be shown", func(ctx context.Context) error {
		all, err = Status(ctx, b.js, 2)
		if err == nil && (all[0].State != string(statePaused) || all[1].State != string(stateRunning)) {
			err = fmt.Errorf("%+v", all)
		}
		return err
	})
	require.Equal(t, []string{s.name, s.name}, []string{all[0].Owner, all[1].Owner})
	require.EqualValues(t, 15, all[0].StreamLast)
	require.EqualValues(t, 10, all[0].Done)
	require.EqualValues(t, 5, all[0].Lag)
	require.Contains(t, all[0].Problem, "content of the message log has changed")
	var table bytes.Buffer
	require.NoError(t, WriteStatus(&table, all))
	require.Contains(t, table.String(), "PARTITION")
	require.Contains(t, table.String(), "partition 0: the content of the message log has changed")
	require.NoError(t, stop())

	all, err = Status(b.ctx, b.js, 2)
	require.NoError(t, err)
	table.Reset()
	require.NoError(t, WriteStatus(&table, all))
	require.Contains(t, table.String(), "nobody")
}
