package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// channelOf is the name of a group channel of a partition.
func (b *bundle) channelOf(partition int) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint("g", i); b.service.topology.Of(name, message.ChannelGroup) == partition {
			return name
		}
	}
}

// A send to a partition that its sequencer refuses is answered at once, names the
// partition, and is not written; the other partition is served, and this one again when
// it is mended or its owner is gone.
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
			if !b.service.partitions[1].refuses() {
				return errors.New("it is not")
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

// What is no lease of a partition that there is, or says nothing, refuses nothing.
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
