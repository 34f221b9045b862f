package permission

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// TestEndToEndCluster changes permissions through two instances while each of three NATS servers is killed in turn. Every
// acknowledged change must be in force in both at the end.
func TestEndToEndCluster(t *testing.T) { //nolint:paralleltest // it starts three servers, and kills them
	servers := testkit.StartNATSCluster(t, testkit.NATSOptions{})
	url := servers[0].URL + "," + servers[1].URL + "," + servers[2].URL
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	store := func() *Store {
		nc, js, err := broker.Connect(ctx, broker.Config{URL: url, Name: t.Name(), Logger: quiet()})
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		makeReplicated(ctx, t, js)
		s, err := New(Config{UndefinedChannels: undefinedAllow, StaleMax: time.Minute}, Deps{JetStream: js, Logger: quiet(), Registerer: prometheus.NewRegistry()})
		require.NoError(t, err)
		(&bundle{t: t}).run(s)
		return s
	}
	stores := []*Store{store(), store()}
	g := group("g")
	var answered sync.Map
	var count, failed atomic.Int64
	var work sync.WaitGroup
	stop := make(chan struct{})
	for n, s := range stores {
		work.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				uid := fmt.Sprintf("%d-%d-%0100d", n, i, 0) // long, so that there are pages
				if s.Change(ctx, g, define(uid)) == nil {
					answered.Store(uid, true)
					count.Add(1)
				} else {
					failed.Add(1)
				}
			}
		})
	}
	progress := func(n int64) {
		t.Helper()
		target := count.Load() + n
		require.Eventually(t, func() bool { return count.Load() >= target }, time.Minute, time.Millisecond, "changes continue")
	}
	for _, server := range servers {
		progress(30)
		server.Kill9()
		progress(30)
		server.Start()
	}
	progress(30)
	close(stop)
	work.Wait()
	t.Logf("%d changes answered, %d failed", count.Load(), failed.Load())
	last := store()
	for _, s := range append(stores, last) {
		eventually(t, "confirmed", func() bool { return s.sync(ctx) == nil })
		answered.Range(func(uid, _ any) bool {
			return assertAllowed(t, s, uid, g)
		})
	}
}

func assertAllowed(t *testing.T, s *Store, uid any, ch Channel) bool {
	t.Helper()
	text, _ := uid.(string)
	if got := s.ask(text, ch); got != Allowed {
		t.Errorf("%s: %s", text, got)
		return false
	}
	return true
}

// makeReplicated makes the bucket with three copies, once the cluster has a leader.
func makeReplicated(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	options := topology.DefaultOptions()
	options.Replicas = 3
	for _, bucket := range options.BucketConfigs() {
		if bucket.Bucket == topology.PermissionBucket || bucket.Bucket == topology.DeploymentBucket {
			require.Eventually(t, func() bool {
				_, err := js.CreateOrUpdateKeyValue(ctx, bucket)
				return err == nil
			}, testTimeout, 50*time.Millisecond)
		}
	}
}
