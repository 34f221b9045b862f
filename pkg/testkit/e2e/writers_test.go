package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// ownersOf asks how many partitions each writer of a deployment holds.
func ownersOf(t *testing.T, natsURL string) map[string]int {
	t.Helper()
	status, output := command(t, "writer", "status", "--json", "--nats-url="+natsURL)
	require.Equal(t, 0, status, output)
	var all []struct{ Owner string }
	require.NoError(t, json.Unmarshal([]byte(output), &all), output)
	owners := make(map[string]int)
	for _, p := range all {
		owners[p.Owner]++
	}
	return owners
}

// awaitShares waits until so many writers hold the four partitions, in even shares.
func awaitShares(t *testing.T, natsURL string, writers int) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "the partitions to be shared", func(context.Context) error {
		owners := ownersOf(t, natsURL)
		if owners[""] > 0 || len(owners) != writers {
			return fmt.Errorf("%v", owners)
		}
		for _, n := range owners {
			if n != 4/writers {
				return fmt.Errorf("%v", owners)
			}
		}
		return nil
	})
}

// changeWriters has a second writer come, be killed, be paused until it is a zombie, and leave, all under load.
func changeWriters(t *testing.T, natsURL string, load *load, second *node) {
	t.Helper()
	load.await(300)
	second.Start()
	awaitShares(t, natsURL, 2)
	load.await(300)
	second.Kill9()
	awaitShares(t, natsURL, 1)
	load.await(300)
	second.Start()
	awaitShares(t, natsURL, 2)
	for range 3 {
		load.await(300)
		second.Pause()
		awaitShares(t, natsURL, 1)
		load.await(300)
		second.Resume()
		awaitShares(t, natsURL, 2)
	}
	load.await(300)
	require.Equal(t, 0, second.Stop())
	awaitShares(t, natsURL, 1)
	load.await(300)
}

// TestEndToEndWritersShareServer has writers share the partitions before a ClickHouse of its own.
func TestEndToEndWritersShareServer(t *testing.T) {
	t.Parallel()
	a := startApart(t)
	load := startLoad(t, a.ingest.api, loadConfig{seed: newSeed(t)})
	second := newRole(t, "writer", into(a.clickHouse), "--nats-url="+a.natsURL, "--flush-interval=50ms", "--writer-lease-ttl=2s")
	changeWriters(t, a.natsURL, load, second)
	a.verify(t, load.finish())
}

// TestEndToEndWritersShareEmbedded has a writer in a process of its own beside the one in `up`. On this
// engine not even a killed one leaves a row twice.
func TestEndToEndWritersShareEmbedded(t *testing.T) {
	t.Parallel()
	up := newUp(t, "--partitions=4", "--flush-interval=50ms", "--writer-lease-ttl=2s")
	up.Start()
	table := embeddedTable(t, up)
	table.keepDuplicates(t)
	load := startLoad(t, up.api, loadConfig{seed: newSeed(t)})
	natsURL := "nats://" + up.nats
	second := newRole(t, "writer", append(up.owner("sendhouse"), "--nats-url="+natsURL, "--flush-interval=50ms", "--writer-lease-ttl=2s")...)
	changeWriters(t, natsURL, load, second)

	// The one in `up` holds all again, and takes them at once when it is back from a kill -9.
	up.Kill9()
	up.Start()
	require.Equal(t, map[string]int{"embedded": 4}, ownersOf(t, natsURL))
	load.await(300)
	verify(t, table, load.finish())
	require.Equal(t, 0, up.Stop())
}
