package topology_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

func TestKindOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stream    string
		kind      topology.Kind
		partition int
		ok        bool
	}{
		{topology.WALStream(17), topology.KindWAL, 17, true},
		{topology.MessagesStream(0), topology.KindMessages, 0, true},
		{topology.DeadLettersStream, topology.KindDeadLetters, -1, true},
		{"KV_" + topology.DeploymentBucket, topology.KindKeyValue, -1, true},
		{"KV_" + topology.LeaseBucket, topology.KindKeyValue, -1, true},
		{"OBJ_" + topology.CheckpointBucket, topology.KindObjects, -1, true},
		{"ORDERS", "", -1, false},
		{"KV_OTHER", "", -1, false},
	} {
		kind, partition, ok := topology.KindOf(c.stream)
		require.Equal(t, c.kind, kind, c.stream)
		require.Equal(t, c.partition, partition, c.stream)
		require.Equal(t, c.ok, ok, c.stream)
	}
	for _, foreign := range []string{"SENDS_x", "SENDS_01", "SENDS_-1", "MESSAGES_"} {
		_, _, ok := topology.KindOf(foreign)
		require.False(t, ok, foreign)
	}
}
