package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// The embedded server on a disk that becomes full: the fault is known, asking for it leaves nothing in a stream, and when there is room
// Watch has the server write again. Connections come back by themselves, and what was acknowledged is there.
func TestEmbeddedRestartsWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	testkit.RequireRoot(t)
	const patience = time.Minute
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16777216"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: dir, Addr: "127.0.0.1:0", Logger: log})
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- server.Watch(watching) }()

	nc, js, err := broker.Connect(t.Context(), broker.Config{URL: server.URL(), Name: "inside", Options: []nats.Option{server.InProcess()}, Logger: log})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	other, overTCP, err := broker.Connect(t.Context(), broker.Config{URL: server.URL(), Name: "outside", Options: []nats.Option{server.Operator()}, Logger: log})
	require.NoError(t, err)
	t.Cleanup(other.Close)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxBytes: 4 << 20})
	require.NoError(t, err)
	acked := uint64(0)
	publish := func(js jetstream.JetStream, bytes int) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ack, err := js.Publish(ctx, "s", make([]byte, bytes))
		if err == nil {
			acked = ack.Sequence
		}
		return err
	}
	require.NoError(t, publish(js, 1))
	fault, err := broker.StorageFault(t.Context(), js, "S")
	require.NoError(t, err)
	require.NoError(t, fault)
	require.NoError(t, server.Check())

	for round := range 2 {
		ballast := filepath.Join(dir, "ballast")
		fill(t, ballast)
		testkit.WaitFor(t, patience, "a write that fails", func(context.Context) error {
			if publish(js, 5000) == nil {
				return errors.New("it went well")
			}
			return nil
		})
		fault, err = broker.StorageFault(t.Context(), js, "S")
		require.NoError(t, err)
		require.ErrorContains(t, fault, "no space left on device")
		testkit.WaitFor(t, patience, "the fault to be noticed", func(context.Context) error {
			if err := server.Check(); err == nil || !strings.Contains(err.Error(), "cannot write to stream S: no space left on device") {
				return fmt.Errorf("it says %w", err)
			}
			return nil
		})
		require.Error(t, publish(js, 1), "the server remembers the fault")
		before := acked
		require.NoError(t, os.Remove(ballast))
		for _, js := range []jetstream.JetStream{js, overTCP} {
			testkit.WaitFor(t, patience, "a publish", func(context.Context) error { return publish(js, 1) })
		}
		require.Greater(t, acked, before)
		require.Less(t, acked, before+5, "nothing but what was published is there, and perhaps what failed")
		testkit.WaitFor(t, patience, "the end of the fault", func(context.Context) error { return server.Check() })
		require.NoError(t, testutil.CollectAndCompare(server.Collector(), strings.NewReader(fmt.Sprintf(`
			# HELP sendhouse_nats_server_restarts_total Times that the embedded NATS server was restarted within the process because it could not write to its files.
			# TYPE sendhouse_nats_server_restarts_total counter
			sendhouse_nats_server_restarts_total %d
		`, round+1)), "sendhouse_nats_server_restarts_total"))
	}
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, acked, info.State.LastSeq)
	require.Zero(t, info.State.NumDeleted)
	stop()
	require.NoError(t, <-watched)
}

// Limits that were accepted are accepted again on a disk that has filled up since.
func TestEmbeddedStartsOnAFullerDisk(t *testing.T) {
	t.Parallel()
	testkit.RequireRoot(t)
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=67108864"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	start := func() (*broker.Embedded, jetstream.JetStream) {
		log := slog.New(slog.DiscardHandler)
		server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: dir, Addr: "127.0.0.1:0", Logger: log})
		require.NoError(t, err)
		t.Cleanup(server.Shutdown)
		nc, js, err := broker.Connect(t.Context(), broker.Config{URL: server.URL(), Name: "test", Options: []nats.Option{server.InProcess()}, Logger: log})
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return server, js
	}
	small := func(js jetstream.JetStream) error {
		_, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"small"}, MaxBytes: 1 << 20})
		return err
	}
	server, js := start()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LARGE", Subjects: []string{"large"}, MaxBytes: 60 << 20})
	require.ErrorContains(t, err, "insufficient storage", "more than the disk has")
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LARGE", Subjects: []string{"large"}, MaxBytes: 32 << 20})
	require.NoError(t, err)
	require.NoError(t, small(js))
	server.Shutdown()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), make([]byte, 40<<20), 0o600))

	_, js = start()
	require.NoError(t, js.DeleteStream(t.Context(), "SMALL"))
	require.NoError(t, small(js))
}

// fill takes what the disk has left.
func fill(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	require.NoError(t, err)
	for piece := make([]byte, 4096); err == nil; {
		_, err = file.Write(piece)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, file.Close())
}
