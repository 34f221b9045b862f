package broker_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// gathered is the value of a gauge or counter for the labels, in pairs.
func gathered(t *testing.T, reg prometheus.Gatherer, name string, labels ...string) (value float64, found bool) {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	want := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		want[labels[i]] = labels[i+1]
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if hasLabels(m, want) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue(), true
			}
		}
	}
	return 0, false
}

func hasLabels(m *dto.Metric, want map[string]string) bool {
	n := 0
	for _, l := range m.GetLabel() {
		if value, ok := want[l.GetName()]; ok && value == l.GetValue() {
			n++
		}
	}
	return n == len(want)
}

func TestMonitorShowsTheStreams(t *testing.T) {
	t.Parallel()
	server := startEmbedded(t, t.TempDir())
	nc, js := connect(t, server, server.InProcess())
	o := options()
	_, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 1}, o)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), topology.WALSubject(0), make([]byte, 1000))
	require.NoError(t, err)

	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(broker.ConnectionCollector("test", broker.Watch(nc)), server.Collector())
	monitor, err := broker.NewMonitor(js, nil, reg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- monitor.Run(ctx) }()
	awaitUp := func(want float64) {
		testkit.WaitFor(t, patience, "sendhouse_jetstream_up", func(context.Context) error {
			if up, _ := gathered(t, reg, "sendhouse_jetstream_up"); up != want {
				return errors.New("not yet as wanted")
			}
			return nil
		})
	}
	awaitUp(1)

	wal := []string{"stream", "SENDS_0", "kind", "wal", "partition", "0"}
	for name, want := range map[string]float64{
		"messages": 1, "first_seq": 1, "last_seq": 1, "bytes_max": float64(o.WALBytesMax), "replicas": 1, "replicas_current": 1, "consumers": 0,
	} {
		have, found := gathered(t, reg, "sendhouse_jetstream_stream_"+name, wal...)
		require.True(t, found, name)
		require.InDelta(t, want, have, 0, name)
	}
	size, _ := gathered(t, reg, "sendhouse_jetstream_stream_bytes", wal...)
	require.Greater(t, size, 1000.0)
	old, _ := gathered(t, reg, "sendhouse_jetstream_stream_age_seconds", wal...)
	require.Positive(t, old)
	_, found := gathered(t, reg, "sendhouse_jetstream_stream_age_max_seconds", wal...)
	require.False(t, found, "the write-ahead log keeps its records whatever their age")
	age, _ := gathered(t, reg, "sendhouse_jetstream_stream_age_max_seconds", "stream", "MESSAGES_0", "kind", "messages")
	require.InDelta(t, o.MessagesAgeMax.Seconds(), age, 0)
	for stream, kind := range map[string]string{"DEAD_LETTERS": "dead_letters", "KV_SENDHOUSE": "key_value", "OBJ_CHECKPOINTS": "objects"} {
		_, found := gathered(t, reg, "sendhouse_jetstream_stream_messages", "stream", stream, "kind", kind, "partition", "")
		require.True(t, found, stream)
	}
	connected, _ := gathered(t, reg, "sendhouse_nats_connected", "connection", "test")
	require.InDelta(t, 1, connected, 0)
	clients, _ := gathered(t, reg, "sendhouse_nats_server_connections")
	require.InDelta(t, 1, clients, 0)

	server.Shutdown()
	awaitUp(0)
	connected, _ = gathered(t, reg, "sendhouse_nats_connected", "connection", "test")
	require.InDelta(t, 0, connected, 0)
	_, found = gathered(t, reg, "sendhouse_nats_server_connections")
	require.False(t, found)
	cancel()
	require.NoError(t, <-done)
}

const patience = 30 * time.Second
