package topology_test

import (
	"fmt"
	"hash/crc32"
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
	rapid.Check(t, func(t *rapid.T) {
		channel, kind := rapid.String().Draw(t, "channel"), rapid.Byte().Draw(t, "type")
		require.EqualValues(t, crc32.ChecksumIEEE(append([]byte{kind}, channel...))%topology.Slots, topology.Slot(channel, message.ChannelType(kind)))
	})
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

func TestLiveSubjectHasThreeTokens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		channel := rapid.String().Draw(t, "channel")
		tokens := strings.Split(string(topology.AppendLiveSubject(nil, message.ChannelGroup, channel)), ".")
		require.Equal(t, []string{"live", "2"}, tokens[:2])
		require.Len(t, tokens, 3)
		back, err := message.ParseChannelToken(tokens[2])
		require.NoError(t, err)
		require.Equal(t, channel, back)
		require.Equal(t, "copy.7.2."+tokens[2], string(topology.AppendChannel([]byte("copy.7"), message.ChannelGroup, channel)))
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
	require.ErrorContains(t, err, "--dedup-window")
	require.ErrorContains(t, err, "--dedup-entries-max")
}

// TestFirstStart: what a deployment remembers and stores does not depend on its number of partitions, unless that is asked for.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	options := topology.DefaultOptions()
	first := func(asked topology.Deployment) topology.Deployment {
		d, err := options.First(asked)
		require.NoError(t, err)
		return d
	}
	require.Equal(t, topology.DefaultDeployment(), first(topology.Deployment{}))
	require.Equal(t, 4, first(topology.Deployment{}).Partitions)
	require.Equal(t, 1_000_000, first(topology.Deployment{}).DedupEntriesMax)
	require.Equal(t, 1_000_000, first(topology.Deployment{Partitions: 16}).DedupEntriesMax)

	for cores, partitions := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 8: 4, 64: 4} {
		require.Equal(t, partitions, topology.PartitionsOfMachine(cores), "%d cores", cores)
	}
	options.PartitionsFirst = 1
	require.Equal(t, topology.Deployment{Partitions: 1, DedupWindow: 10 * time.Minute, DedupEntriesMax: 4_000_000}, first(topology.Deployment{}))
	require.Equal(t, topology.Deployment{Partitions: 2, DedupWindow: time.Minute, DedupEntriesMax: 5}, first(topology.Deployment{Partitions: 2, DedupWindow: time.Minute, DedupEntriesMax: 5}))

	share, err := options.Share(topology.Deployment{Partitions: 4})
	require.NoError(t, err)
	require.EqualValues(t, 1<<30, share.WALConfig(3).MaxBytes)
	require.EqualValues(t, 2<<30, share.MessagesConfig(3).MaxBytes)
	options.MessagesBytesMax = 0
	share, err = options.Share(topology.Deployment{Partitions: 4})
	require.NoError(t, err)
	require.EqualValues(t, -1, share.MessagesConfig(3).MaxBytes, "no bound")

	options.WALBytesMax = 64 << 20
	_, err = options.First(topology.Deployment{Partitions: 5})
	require.ErrorContains(t, err, "wal-bytes-max 64MiB for 5 partitions is")
}

func TestOptionsValidateReportsAll(t *testing.T) {
	t.Parallel()
	require.NoError(t, topology.DefaultOptions().Check())
	err := topology.Options{Replicas: 2, MessagesBytesMax: -1}.Check()
	for _, part := range []string{"replicas 2", "wal-bytes-max", "messages-age-max", "messages-bytes-max"} {
		require.ErrorContains(t, err, part)
	}
}
