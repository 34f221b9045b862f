package e2e

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// into are the flags of a process that uses a ClickHouse of its own.
func into(server *enginetest.Server) string { return "--clickhouse-dsn=" + server.DSN("sendhouse") }

// TestEndToEndClickHouseAway takes ClickHouse away in three ways, while clients send.
func TestEndToEndClickHouseAway(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	server := enginetest.StartServer(t)
	up := newUp(t, into(server))
	up.Start()
	load := startLoad(t, up.api, loadConfig{seed: seed})
	load.await(300)

	for _, way := range []struct {
		name       string
		away, back func()
		// notReady: the process can know, and says so.
		notReady bool
	}{
		{"stopped", func() { require.Equal(t, 0, server.Stop()) }, server.Start, true},
		{"killed", server.Kill9, server.Start, true},
		{"paused", server.Pause, server.Resume, false},
	} {
		t.Log("ClickHouse is", way.name)
		way.away()
		load.await(500)
		if way.notReady {
			up.awaitNotReady(t, `"name":"writer","ok":false`)
			load.await(100)
		}
		up.requireRuns(t)
		way.back()
		up.awaitReady(t)
		load.await(100)
	}

	// A ClickHouse that does not answer does not keep the process from stopping; what it owes stays in the log.
	server.Pause()
	load.await(300)
	records := load.finish()
	up.Signal(syscall.SIGTERM)
	require.Equal(t, 0, up.Wait(drainTimeout), "exit status")
	server.Resume()
	up.Start()
	verify(t, serverTable(t, server), records)
	audit(t, "nats://"+up.nats)
	require.Equal(t, 0, up.Stop())
}

// TestEndToEndNATSAway takes an external NATS away that could be reached once.
func TestEndToEndNATSAway(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	server := testkit.StartNATS(t, testkit.NATSOptions{})
	up := newUp(t, "--nats-url="+server.URL, "--sequencer-lease-ttl=2s", "--ingest-ack-timeout=1s")
	up.Start()
	table := embeddedTable(t, up)
	table.keepDuplicates(t)
	load := startLoad(t, up.api, loadConfig{seed: seed})
	load.await(300)

	for _, way := range []struct {
		name       string
		away, back func()
		why        string
	}{
		{"stopped", func() { server.Stop() }, server.Start, "not connected to NATS"},
		{"killed", server.Kill9, server.Start, "not connected to NATS"},
		{"paused", server.Pause, server.Resume, ""},
	} {
		t.Log("NATS is", way.name)
		way.away()
		if way.why != "" {
			up.awaitNotReady(t, way.why)
		} else {
			load.awaitOutcome("503 outcome_unknown")
		}
		up.requireRuns(t)
		way.back()
		load.await(300)
		up.awaitReady(t)
	}
	records := load.finish()
	verify(t, table, records)
	audit(t, server.URL)

	// Nor does a NATS that is gone.
	server.Kill9()
	up.Signal(syscall.SIGTERM)
	require.Equal(t, 0, up.Wait(drainTimeout), "exit status")
	server.Start()
	up.Start()
	verify(t, embeddedTable(t, up), records)
}
