package e2e

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// TestEndToEndRollingChange replaces each process of a deployment that has two of each role, one after another
// and under load. Its clients spread their requests over both ingest processes and try once more where one
// fails, at the other one: none of them sees a failure.
//
// A lease lives for longer here than a request and its repeat may wait together, so a process that stopped without
// handing its partitions over would be noticed, however slow the machine is.
func TestEndToEndRollingChange(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	nats, clickHouse := testkit.StartNATS(t, testkit.NATSOptions{}), enginetest.StartServer(t)
	natsURL := "--nats-url=" + nats.URL
	var all []*node
	for range 2 {
		all = append(
			all,
			newRole(t, "ingest", natsURL, "--ingest-ack-timeout=9s", "--ingest-answer-timeout=9s"),
			newRole(t, "sequencer", slices.Concat([]string{natsURL, "--sequencer-lease-ttl=30s"}, small)...),
			newRole(t, "writer", into(clickHouse), natsURL, "--flush-interval=50ms", "--writer-lease-ttl=30s"),
		)
	}
	for _, h := range all {
		h.Launch()
	}
	for _, h := range all {
		h.WaitReady()
	}
	awaitShares(t, nats.URL, 2)

	load := startLoad(t, all[0].api, loadConfig{seed: seed, others: []string{all[3].api}, oneRetry: true})
	for _, h := range all {
		load.await(300)
		require.Equal(t, 0, h.Stop(), h.args[0])
		load.await(300) // more than can be answered without what it had
		h.Start()
	}
	awaitShares(t, nats.URL, 2)
	load.await(300)
	records := load.finish()
	t.Logf("%d sends answered; what else the clients saw, and not twice in a row: %v", len(records), load.outcomes)
	verify(t, serverTable(t, clickHouse), records)
	audit(t, nats.URL)
	for _, h := range all {
		require.Equal(t, 0, h.Stop(), h.args[0])
	}
}
