package e2e

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// apart are the roles as processes of their own, around a NATS server and a ClickHouse.
type apart struct {
	nats                      *testkit.NATSServer // nil where it is a cluster
	natsURL                   string
	clickHouse                *enginetest.Server
	ingest, sequencer, writer *node
}

// startApart starts the servers, and then the roles on an empty deployment.
func startApart(t *testing.T, sequencerFlags ...string) *apart {
	t.Helper()
	return startApartOn(t, testkit.NATSOptions{}, sequencerFlags...)
}

func startApartOn(t *testing.T, options testkit.NATSOptions, sequencerFlags ...string) *apart {
	t.Helper()
	server := testkit.StartNATS(t, options)
	a := newApart(t, server.URL, sequencerFlags...)
	a.nats = server
	a.start()
	return a
}

// newApart prepares the roles, which find NATS at one address or more, and starts ClickHouse.
func newApart(t *testing.T, natsURL string, sequencerFlags ...string) *apart {
	t.Helper()
	a := &apart{natsURL: natsURL, clickHouse: enginetest.StartServer(t)}
	a.writer = newRole(t, "writer", into(a.clickHouse), "--nats-url="+natsURL, "--writer-lease-ttl=2s")
	a.ingest = newRole(t, "ingest", "--nats-url="+natsURL, "--ingest-ack-timeout=1s", "--ingest-answer-timeout=3s")
	a.sequencer = a.newSequencer(t, sequencerFlags...)
	return a
}

// start starts all roles at once, as a supervisor would: they wait for each other.
func (a *apart) start() {
	for _, role := range a.roles() {
		role.Launch()
	}
	for _, role := range a.roles() {
		role.WaitReady()
	}
}

// startInOrder starts the sequencer first: on a busy machine it may take longer to set the streams of a cluster up than the other
// roles wait for it.
func (a *apart) startInOrder() {
	a.sequencer.Start()
	a.ingest.Start()
	a.writer.Start()
}

func (a *apart) roles() []*node { return []*node{a.ingest, a.sequencer, a.writer} }

// newSequencer has short leases, so that what a dead one held is soon taken.
func (a *apart) newSequencer(t *testing.T, flags ...string) *node {
	t.Helper()
	return newRole(t, "sequencer", slices.Concat([]string{"--nats-url=" + a.natsURL, "--sequencer-lease-ttl=2s"}, small, flags)...)
}

// urlOf names all servers of a cluster.
func urlOf(servers []*testkit.NATSServer) string {
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	return strings.Join(urls, ",")
}

// verify checks everything that there is, and stops the roles.
func (a *apart) verify(t *testing.T, records []*record) {
	t.Helper()
	verify(t, serverTable(t, a.clickHouse), records)
	a.stop(t)
}

// stop checks the logs and stops the roles.
func (a *apart) stop(t *testing.T) {
	t.Helper()
	audit(t, a.natsURL)
	for _, role := range a.roles() {
		require.Equal(t, 0, role.Stop())
	}
}

// TestEndToEndRolesApart kills each role in turn under load.
func TestEndToEndRolesApart(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	a := startApart(t)
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed})

	load.await(300)
	a.writer.Kill9()
	load.await(300) // only the table lacks it
	a.writer.Start()

	load.await(300)
	a.ingest.Kill9()
	a.ingest.Start()

	load.await(300)
	a.sequencer.Kill9()
	load.awaitOutcome("503 no_answer")
	a.sequencer.Start()

	load.await(300)
	for _, role := range a.roles() {
		role.Kill9()
	}
	for _, role := range a.roles() {
		role.Launch()
	}
	load.await(300)
	for _, role := range a.roles() {
		role.WaitReady()
	}
	a.verify(t, load.finish())
}

// TestEndToEndNATSKilled kills the NATS server under load: what was answered is in the write-ahead log, and
// the tail of the message log, which is written without waiting for the disk, is derived again.
func TestEndToEndNATSKilled(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	a := startApart(t)
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed})
	for range 3 {
		load.await(500)
		a.nats.Kill9()
		for _, role := range a.roles() {
			role.awaitNotReady(t, "not connected to NATS")
		}
		a.nats.Start()
		for _, role := range a.roles() {
			role.awaitReady(t)
		}
	}
	load.await(500)
	a.verify(t, load.finish())
}

// TestEndToEndDerivedAgain deletes all that is derived from the write-ahead log while no process runs: the
// message log and the checkpoints. They are made again, the same, and the writer continues at its position.
func TestEndToEndDerivedAgain(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	a := startApart(t)
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed, name: "first-"})
	load.await(1000)
	a.sequencer.awaitCheckpoints(t)
	records := load.finish()
	table := serverTable(t, a.clickHouse)
	table.await(t, len(records)/2) // and some are perhaps not there yet
	for _, role := range a.roles() {
		role.Kill9()
	}

	nc, err := nats.Connect(a.natsURL)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.NoError(t, js.DeleteObjectStore(t.Context(), topology.CheckpointBucket))
	require.NoError(t, js.DeleteKeyValue(t.Context(), topology.CheckpointPointerBucket))
	for partition := range topology.DefaultDeployment().Partitions {
		require.NoError(t, js.DeleteStream(t.Context(), topology.MessagesStream(partition)))
	}

	a.start()
	load = startLoad(t, a.ingest.api, loadConfig{seed: seed, name: "second-"})
	load.await(500)
	load.repeatSome(records, len(records)/100)
	a.verify(t, append(records, load.finish()...))
}

// TestEndToEndZombieSequencer pauses a sequencer until another has its partitions, and for ZOMBIE_PAUSE at the
// least, then resumes it.
func TestEndToEndZombieSequencer(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	a := startApart(t)
	second := a.newSequencer(t)
	second.Start()
	pause, err := time.ParseDuration(cmp.Or(os.Getenv("ZOMBIE_PAUSE"), "0s"))
	require.NoError(t, err)
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed})
	for range 2 {
		for _, zombie := range []*node{a.sequencer, second} {
			load.await(300)
			zombie.Pause()
			woken := time.After(pause)
			load.await(1000) // more than can be without the partitions that it had: the other one has taken over
			<-woken
			zombie.Resume()
		}
	}
	load.await(300)
	records := load.finish()
	a.verify(t, records)
	require.Equal(t, 0, second.Stop())
}
