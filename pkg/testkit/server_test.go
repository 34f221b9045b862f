package testkit_test

import (
	"context"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// connect opens a connection to JetStream that ends with the test.
func connect(t *testing.T, s *testkit.NATSServer) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.URL)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

func messages(t *testing.T, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	info, err := s.Info(t.Context())
	require.NoError(t, err)
	return info.State.Msgs
}

func TestNATSKeepsItsDataThroughKill9(t *testing.T) {
	t.Parallel()
	s := testkit.StartNATS(t, testkit.NATSOptions{})
	js := connect(t, s)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SENDS", Subjects: []string{"sends.>"}})
	require.NoError(t, err)
	for range 10 {
		_, err = js.Publish(t.Context(), "sends.1", []byte("hello"))
		require.NoError(t, err)
	}

	s.Kill9()
	s.Start()
	require.Equal(t, uint64(10), messages(t, connect(t, s), "SENDS"))

	s.Stop()
	again := testkit.StartNATS(t, testkit.NATSOptions{Port: s.Port, StoreDir: s.StoreDir})
	require.Equal(t, s.URL, again.URL)
	require.Equal(t, uint64(10), messages(t, connect(t, again), "SENDS"))
}

func TestNATSClusterOutlivesOneServer(t *testing.T) {
	t.Parallel()
	servers := testkit.StartNATSCluster(t, testkit.NATSOptions{})
	require.Len(t, servers, 3)
	js := connect(t, servers[0])
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SENDS", Subjects: []string{"sends.>"}, Replicas: 3})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "sends.1", []byte("one"))
	require.NoError(t, err)

	servers[2].Kill9()
	// The others may have to elect a leader first. The ID keeps a repeat from counting twice.
	testkit.WaitFor(t, time.Minute, "two servers to take a message", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := js.Publish(ctx, "sends.1", []byte("two"), jetstream.WithMsgID("two"))
		return err
	})

	servers[2].Start()
	require.Equal(t, uint64(2), messages(t, connect(t, servers[2]), "SENDS"))
}

func TestClickHouseKeepsItsDataThroughKill9(t *testing.T) {
	t.Parallel()
	s := testkit.StartClickHouse(t)
	open := func() clickhouse.Conn {
		opts, err := clickhouse.ParseDSN(s.DSN)
		require.NoError(t, err)
		conn, err := clickhouse.Open(opts)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, conn.Close()) })
		return conn
	}
	conn := open()
	require.NoError(t, conn.Exec(t.Context(), "CREATE TABLE rows (n UInt64) ENGINE = MergeTree ORDER BY n"))
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO rows (n)")
	require.NoError(t, err)
	for n := range uint64(1000) {
		require.NoError(t, batch.Append(n))
	}
	require.NoError(t, batch.Send())

	count := func() (n uint64) {
		require.NoError(t, open().QueryRow(t.Context(), "SELECT count() FROM rows").Scan(&n))
		return n
	}
	require.Equal(t, uint64(1000), count())
	s.Kill9()
	s.Start()
	require.Equal(t, uint64(1000), count())
	require.Equal(t, 0, s.Stop())
	s.Start()
	require.Equal(t, uint64(1000), count())
}
