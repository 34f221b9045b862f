package writer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// shown is the value of a gauge that a writer shows, for the partition if the metric has one.
func shown(t *testing.T, reg prometheus.Gatherer, name, partition string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != "sendhouse_writer_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			if len(m.GetLabel()) == 0 || isOf(m, partition) {
				return m.GetGauge().GetValue()
			}
		}
	}
	require.Fail(t, "no such metric", name)
	return 0
}

func isOf(m *dto.Metric, partition string) bool {
	for _, l := range m.GetLabel() {
		if l.GetName() == "partition" {
			return l.GetValue() == partition
		}
	}
	return false
}

// While ClickHouse is away, the lag is shown and grows older from look to look, without anything being inserted; when it
// is back, there is none.
func TestLagIsShown(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	server := enginetest.StartServer(t)
	reg := prometheus.NewRegistry()
	s, err := New(b.config(server.DSN("test")), Deps{JetStream: b.js, Partitions: 2, Logger: b.log, Registerer: reg})
	require.NoError(t, err)
	s.timing.watch, s.timing.backoff = 50*time.Millisecond, lifecycle.Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond}
	stop := b.start(s)
	await := func(what string, reached func() bool) {
		testkit.WaitFor(t, time.Minute, what, func(context.Context) error {
			if !reached() {
				return errors.New("not yet")
			}
			return nil
		})
	}

	b.publish(0, 1, 100)
	b.waitDone(0, 100)
	await("no lag", func() bool {
		return shown(t, reg, "retained_messages", "0") == 100 && shown(t, reg, "lag_messages", "0") == 0 && shown(t, reg, "lag_seconds", "0") == 0
	})
	await("ClickHouse's health", func() bool { return shown(t, reg, "clickhouse_up", "") == 1 })

	server.Kill9()
	accepted := time.Now()
	b.publish(0, 101, 150)
	await("lag", func() bool { return shown(t, reg, "lag_messages", "0") == 50 && shown(t, reg, "lag_seconds", "0") > 0 })
	first := shown(t, reg, "lag_seconds", "0")
	await("older lag", func() bool { return shown(t, reg, "lag_seconds", "0") > first+0.2 })
	require.LessOrEqual(t, shown(t, reg, "lag_seconds", "0"), time.Since(accepted).Seconds()+0.001)
	require.InDelta(t, 100, shown(t, reg, "retained_messages", "0"), 0)
	require.Zero(t, shown(t, reg, "lag_seconds", "1"), "the other partition has nothing to write")

	server.Start()
	b.waitDone(0, 150)
	await("no lag", func() bool { return shown(t, reg, "lag_messages", "0") == 0 && shown(t, reg, "lag_seconds", "0") == 0 })
	require.NoError(t, stop())
}

func TestHealthIsShown(t *testing.T) {
	t.Parallel()
	m := newMetrics(prometheus.NewRegistry(), 1, newBudget(1))
	m.server.show(clickhouse.Health{Rows: 7, Bytes: 8, PartsMax: 9, DiskFreeBytes: 10, DiskBytes: 11}, clickhouse.Signs{}, nil, time.Second)
	require.InDelta(t, 1, valueOf(t, m.server.up), 0)
	m.server.show(clickhouse.Health{}, clickhouse.Signs{}, errors.New("away"), time.Second)
	require.InDelta(t, 0, valueOf(t, m.server.up), 0)
	for want, gauge := range map[float64]prometheus.Gauge{7: m.server.rows, 8: m.server.bytes, 9: m.server.partsMax, 10: m.server.diskFree, 11: m.server.disk} {
		require.InDelta(t, want, valueOf(t, gauge), 0, "what is not known now, stands")
	}
}
