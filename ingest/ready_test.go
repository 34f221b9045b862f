package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// awaitReadyz waits until /readyz answers with the status and a text that contains the given parts.
func (b *bundle) awaitReadyz(status int, said ...string) {
	b.t.Helper()
	testkit.WaitFor(b.t, testTimeout, fmt.Sprint("/readyz to say ", status, said), func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		g, err := b.do(req)
		if g.status != status {
			return fmt.Errorf("%d %s %w", g.status, g.raw, err)
		}
		for _, part := range said {
			if !strings.Contains(g.raw, part) {
				return errors.New(g.raw)
			}
		}
		return nil
	})
}

// Readiness follows the leases and the logs of idle partitions, names the partition, and has the code that a send would
// get.
func TestReadinessWithoutSends(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2, noOwners: true})
	kv, err := b.js.KeyValue(t.Context(), topology.LeaseBucket)
	require.NoError(t, err)
	b.awaitReadyz(http.StatusServiceUnavailable, "no_answer", "partition 0: no sequencer", "partition 1: no sequencer")
	b.lease(kv, 0, "{}")
	b.lease(kv, 1, `{"behind":true}`)
	b.awaitReadyz(http.StatusServiceUnavailable, "partition 1: its sequencer a has not read")
	b.lease(kv, 1, `{"problem":"stream SENDS_1 cannot be written to: no space left on device"}`)
	b.awaitReadyz(http.StatusServiceUnavailable, "no space left on device")
	b.lease(kv, 1, `{"refused":true,"problem":"record 2 is damaged"}`)
	b.awaitReadyz(http.StatusServiceUnavailable, "partition_refused", "partition 1: ", "record 2 is damaged")
	b.lease(kv, 1, `{}`)
	b.awaitReadyz(http.StatusOK, "ready")

	// Probes have left nothing in the logs.
	for partition := range 2 {
		probes := make(chan *nats.Msg, 64)
		seen, err := b.nc.ChanSubscribe(topology.WALSubject(partition), probes)
		require.NoError(t, err)
		for range 2 { // a second probe is sent only after the first has been answered
			require.NotEmpty(t, receive(t, probes).Header.Get(jetstream.ExpectedLastSeqHeader))
		}
		require.NoError(t, seen.Unsubscribe())
		require.NoError(t, b.service.Check())
		stream, err := b.js.Stream(t.Context(), topology.WALStream(partition))
		require.NoError(t, err)
		require.Zero(t, stream.CachedInfo().State.LastSeq)
	}

	config, err := b.js.Stream(t.Context(), topology.WALStream(1))
	require.NoError(t, err)
	require.NoError(t, b.js.DeleteStream(t.Context(), topology.WALStream(1)))
	b.awaitReadyz(http.StatusServiceUnavailable, "wal_unavailable", "partition 1: its write-ahead log: no stream takes its subject")
	_, err = b.js.CreateStream(t.Context(), config.CachedInfo().Config)
	require.NoError(t, err)
	b.awaitReadyz(http.StatusOK, "ready")
}

// A send that failed counts until one is answered.
func TestReadinessAfterSends(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.AckTimeout, c.AnswerTimeout = time.Second, time.Second }})
	b.awaitReadyz(http.StatusOK, "ready")
	require.Equal(t, http.StatusServiceUnavailable, b.post(send("g", "1")).status)
	var unready *groupcommit.PartitionsError
	require.ErrorAs(t, b.service.Check(), &unready)
	require.Contains(t, []outcome.Outcome{outcome.NoAnswer, outcome.Unknown, outcome.WALStalled}, unready.Partitions[0].Outcome)
	b.sequence()
	testkit.WaitFor(t, testTimeout, "an answer", func(context.Context) error {
		if g := b.post(send("g", "2")); g.status != http.StatusOK {
			return errors.New(g.raw)
		}
		return nil
	})
	require.NoError(t, b.service.Check())
}

// channelOf returns the name of a group channel of a partition.
func (b *bundle) channelOf(partition int) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint("g", i); b.service.topology.Of(name, message.ChannelGroup) == partition {
			return name
		}
	}
}

// A send to a partition that its sequencer refuses is answered at once, names the partition, and is not written. The other
// partition is served, and so is this one again once it is repaired or its owner is gone.
func TestRefusedPartition(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2})
	b.sequence()
	kv, err := lease.OpenBucket(t.Context(), b.js, topology.LeaseBucket, 1, nil)
	require.NoError(t, err)
	refused, other := b.channelOf(1), b.channelOf(0)
	require.Equal(t, http.StatusOK, b.post(send(refused, "1")).status)
	written := func() uint64 {
		stream, err := b.js.Stream(t.Context(), topology.WALStream(1))
		require.NoError(t, err)
		return stream.CachedInfo().State.LastSeq
	}

	for _, end := range map[string]func(){
		"mended": func() {
			_, err := kv.Put(t.Context(), "sequencer.partition.1", []byte(`{"instance":"a","status":{"wal_seq":1}}`))
			require.NoError(t, err)
		},
		"given back": func() { require.NoError(t, kv.Delete(t.Context(), "sequencer.partition.1")) },
		"expired":    func() {},
	} {
		_, err = kv.Put(t.Context(), "sequencer.partition.1", []byte(`{"instance":"a","ttl_ms":2000,"status":{"wal_seq":1,"refused":true,"problem":"record 2 is damaged"}}`))
		require.NoError(t, err)
		testkit.WaitFor(t, testTimeout, "the refusal is known", func(context.Context) error {
			if err := b.service.Check(); err == nil || !strings.Contains(err.Error(), "partition 1: its sequencer refuses it") {
				return fmt.Errorf("it is not: %w", err)
			}
			return nil
		})
		before := written()
		g := b.post(send(refused, "2"))
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		requireShape(t, g)
		require.Equal(t, "partition_refused", g.code())
		require.Contains(t, g.raw, "partition 1 ")
		require.Equal(t, []string{"partition_refused", ""}, b.bulk(t, ndjson, strings.NewReader(send(refused, "2")+"\n"+send(other, "2"))).codes())
		require.Equal(t, before, written(), "nothing was written")
		require.Equal(t, http.StatusOK, b.post(send(other, "3")).status)

		end()
		testkit.WaitFor(t, testTimeout, "the partition takes sends", func(context.Context) error {
			if g := b.post(send(refused, "2")); g.status != http.StatusOK {
				return fmt.Errorf("%s", g.raw)
			}
			return nil
		})
	}
}

// A value that is not a lease of an existing partition, or an empty one, refuses nothing.
func TestStrayLeasesRefuseNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	kv, err := b.js.KeyValue(t.Context(), topology.LeaseBucket)
	require.NoError(t, err)
	const says = `{"instance":"a","status":{"refused":true}}`
	for key, value := range map[string]string{
		"sequencer.partition.1": says, "sequencer.partition.-1": says, "sequencer.partition.x": says, "sequencer.member.a": says, "writer.partition.0": says,
		"sequencer.partition.0": "no JSON",
	} {
		_, err := kv.Put(t.Context(), key, []byte(value))
		require.NoError(t, err)
	}
	require.Equal(t, http.StatusOK, b.post(send("g", "1")).status)
}
