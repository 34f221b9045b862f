package topology_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Slots are permanent: a change would cut every channel's sequence in two.
func TestSlotsArePermanent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		channel string
		kind    message.ChannelType
		slot    int
	}{{"group123", 2, 228}, {"group123", 1, 33}, {"u2@u1", 1, 474}, {"群聊", 2, 870}} {
		require.Equal(t, c.slot, topology.Slot(c.channel, c.kind), "%s of type %d", c.channel, c.kind)
	}
}

func TestChannelsSpreadOverPartitions(t *testing.T) {
	t.Parallel()
	const channels, n = 40_000, 8
	partitions, err := topology.NewPartitions(n)
	require.NoError(t, err)
	var counts [n]int
	for i := range channels {
		counts[partitions.Of(fmt.Sprintf("u%d@c%d", i%97, i), message.ChannelPerson)]++
	}
	for p, count := range counts {
		require.InDelta(t, channels/n, count, channels/n/10, "partition %d", p)
	}
}

func TestNewPartitionsRefuses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{-1, 0, topology.PartitionsMax + 1} {
		_, err := topology.NewPartitions(n)
		require.Error(t, err)
	}
}

func TestMessageSubjectHasFourTokens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		channel := rapid.String().Draw(t, "channel")
		subject := string(topology.AppendMessageSubject(nil, 7, message.ChannelGroup, channel))
		tokens := strings.Split(subject, ".")
		require.Equal(t, []string{"messages", "7", "2"}, tokens[:3])
		require.Len(t, tokens, 4)
		back, err := message.ParseChannelToken(tokens[3])
		require.NoError(t, err)
		require.Equal(t, channel, back)
		require.Equal(t, "live.2."+tokens[3], string(topology.AppendLiveSubject(nil, message.ChannelGroup, channel)))
	})
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	require.NoError(t, topology.DefaultDeployment().Check())
	asked := topology.Deployment{Partitions: 8}.Or(topology.DefaultDeployment())
	require.Equal(t, 8, asked.Partitions)
	err := asked.Conflict(topology.DefaultDeployment())
	require.ErrorContains(t, err, "partitions: recorded 4, configured 8")
	require.NotContains(t, err.Error(), "window")

	err = topology.Deployment{Partitions: 5000, DedupWindow: time.Millisecond}.Check()
	require.ErrorContains(t, err, "5000 partitions")
	require.ErrorContains(t, err, "dedup window")
	require.ErrorContains(t, err, "dedup entries")
}

func TestOptionsValidateReportsAll(t *testing.T) {
	t.Parallel()
	require.NoError(t, topology.DefaultOptions().Validate())
	err := topology.Options{Replicas: 2, MessagesBytesMax: -1}.Validate()
	for _, part := range []string{"replicas 2", "wal-bytes-max", "messages-age-max", "messages-bytes-max"} {
		require.ErrorContains(t, err, part)
	}
}
