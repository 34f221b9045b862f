package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const clusterSize = 3

// fullCluster is a cluster of NATS servers, each with a small disk of its own.
type fullCluster struct {
	servers []*testkit.NATSServer
	url     string // of all
	js      jetstream.JetStream
}

func startFullCluster(t *testing.T) *fullCluster {
	t.Helper()
	var options testkit.NATSOptions
	for range clusterSize {
		options.StoreDirs = append(options.StoreDirs, smallStorage(t))
	}
	c := &fullCluster{servers: testkit.StartNATSCluster(t, options)}
	c.url = urlOf(c.servers)
	nc, err := nats.Connect(c.url, nats.MaxReconnects(-1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	c.js, err = jetstream.New(nc)
	require.NoError(t, err)
	return c
}

// leader is the server that leads a stream.
func (c *fullCluster) leader(t *testing.T, stream string) *testkit.NATSServer {
	t.Helper()
	leader := -1
	testkit.WaitFor(t, arriveTimeout, "a leader of "+stream, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		name := s.CachedInfo().Cluster.Leader
		if leader = slices.IndexFunc(c.servers, func(s *testkit.NATSServer) bool { return s.Name == name }); leader < 0 {
			return fmt.Errorf("it is led by %q", name)
		}
		return nil
	})
	return c.servers[leader]
}

// awaitTurnedOff waits until the server says that it has turned its JetStream off, as one of a cluster does that cannot
// write.
func awaitTurnedOff(t *testing.T, server *testkit.NATSServer) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "JetStream of "+server.Name+" to be turned off", func(ctx context.Context) error {
		status, body, err := ask(ctx, server.MonitorURL+"/healthz")
		if err == nil && (status != http.StatusServiceUnavailable || !strings.Contains(body, "JetStream not enabled")) {
			err = fmt.Errorf("/healthz: %d %s", status, body)
		}
		// What it has written may be read later here than what it answered.
		if err == nil && !strings.Contains(server.Output(), "JetStream out of") {
			err = errors.New("it does not say why")
		}
		return err
	})
}

// TestEndToEndStorageFullInCluster fills the disk under one of three NATS servers while clients send, the one that leads a
// write-ahead log, and then that of a second one. One is not missed. Two are: sends are refused with a code that says so, until
// there is room and the servers have been started again. Then everything continues, nothing that was answered is lost, and the three
// servers have the same.
func TestEndToEndStorageFullInCluster(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	c := startFullCluster(t)
	a := newApart(t, c.url, "--replicas=3")
	a.startInOrder()
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed})
	load.await(500)

	first := c.leader(t, topology.WALStream(0))
	ballast := []string{fillStorage(t, first.StoreDir)}
	awaitTurnedOff(t, first)
	load.await(500)
	a.sequencer.awaitSeries(t, "sendhouse_jetstream_stream_replicas_current", every(clusterSize-1))
	for _, role := range a.roles() {
		role.awaitReady(t)
	}
	load.await(500)

	second := c.servers[(slices.Index(c.servers, first)+1)%clusterSize]
	ballast = append(ballast, fillStorage(t, second.StoreDir))
	awaitTurnedOff(t, second)
	load.awaitOutcome("503 wal_stalled")
	a.ingest.awaitAPI(t, http.StatusServiceUnavailable, "partition 0: ")

	// Room alone does not help.
	for _, file := range ballast {
		require.NoError(t, os.Remove(file))
	}
	load.awaitOutcome("503 wal_stalled")
	full := []*testkit.NATSServer{first, second}
	for _, server := range full {
		awaitTurnedOff(t, server)
		server.Stop()
		server.Launch()
	}
	for _, server := range full { // the first may not be well before the second is back
		server.WaitReady()
	}
	load.await(500)
	for _, role := range a.roles() {
		role.requireRuns(t)
		role.awaitReady(t)
	}
	a.sequencer.awaitSeries(t, "sendhouse_jetstream_stream_replicas_current", every(clusterSize))
	records := load.finish()
	t.Logf("%d sends answered; what else the clients saw: %v", len(records), load.outcomes)
	a.verify(t, records)
	c.requireSame(t)
}

// requireSame wants each server to have the same in its own copies of the logs. What the records are, the audit has looked at.
func (c *fullCluster) requireSame(t *testing.T) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "the servers to have the same", func(ctx context.Context) error {
		want, err := copiesOf(ctx, c.servers[0])
		if err != nil {
			return err
		}
		for partition := range topology.DefaultDeployment().Partitions {
			require.NotZero(t, want[topology.WALStream(partition)].LastSeq)
			require.NotZero(t, want[topology.MessagesStream(partition)].LastSeq)
		}
		for _, server := range c.servers[1:] {
			have, err := copiesOf(ctx, server)
			if err != nil {
				return err
			}
			if !maps.Equal(want, have) {
				return fmt.Errorf("%s has %+v, and %s %+v", c.servers[0].Name, want, server.Name, have)
			}
		}
		return nil
	})
}

// logCopy is how a server describes its copy of a log.
type logCopy struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Deleted  int    `json:"num_deleted"`
}

// copiesOf are a server's own copies of all logs, by stream, whichever server leads them.
func copiesOf(ctx context.Context, server *testkit.NATSServer) (map[string]logCopy, error) {
	_, body, err := ask(ctx, server.MonitorURL+"/jsz?accounts=true&streams=true")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Accounts []struct {
			Streams []struct {
				Name  string  `json:"name"`
				State logCopy `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, fmt.Errorf("%w: %s", err, body)
	}
	copies := make(map[string]logCopy)
	for _, account := range answer.Accounts {
		for _, stream := range account.Streams {
			if _, partition, ok := topology.KindOf(stream.Name); ok && partition >= 0 {
				copies[stream.Name] = stream.State
			}
		}
	}
	return copies, nil
}
