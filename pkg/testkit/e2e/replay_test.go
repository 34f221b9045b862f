package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// TestEndToEndReplayOfTheWriteAheadLog deletes the message logs and makes the messages again, in a process that is
// killed and started again: what it writes is, byte for byte, what was replayed from the message logs before.
func TestEndToEndReplayOfTheWriteAheadLog(t *testing.T) {
	t.Parallel()
	const sends, killed = 6000, 3
	up := newUp(t, "--partitions=2")
	up.Start()
	status, output := command(t, "bench", "--target=http://"+up.api, fmt.Sprintf("--count=%d", sends), "--concurrency=16", "--bulk=20", "--channels=50", "--duplicates=0.1")
	require.Equal(t, 0, status, output)
	natsURL := "--nats-url=nats://" + up.nats
	dir := t.TempDir()
	before := filepath.Join(dir, "before")
	status, output = command(t, "replay", "ndjson", natsURL, "--output="+before)
	require.Equal(t, 0, status, output)
	want, err := os.ReadFile(before)
	require.NoError(t, err)

	nc := connectNATS(t, "nats://"+up.nats)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	for partition := range 2 {
		require.NoError(t, js.DeleteStream(t.Context(), topology.MessagesStream(partition)))
	}

	after, state := filepath.Join(dir, "after"), filepath.Join(dir, "state")
	args := []string{"replay", "ndjson", natsURL, "--source=wal", "--output=" + after, "--state=" + state}
	size := int64(0)
	for range killed {
		p := testkit.StartProcess(t, testkit.ProcessConfig{Name: "replay", Path: binary(t), Args: asOperator(append(args, "--replay-rate=1000"))})
		testkit.WaitFor(t, arriveTimeout, "some messages", func(context.Context) error {
			info, err := os.Stat(after)
			if err == nil && info.Size() <= size {
				err = errors.New("there are no more than before")
			}
			return err
		})
		p.Kill9()
		info, err := os.Stat(after)
		require.NoError(t, err)
		size = info.Size()
	}
	require.Less(t, size, int64(len(want)), "it was not killed in the middle")
	status, output = command(t, args...)
	require.Equal(t, 0, status, output)
	got, err := os.ReadFile(after)
	require.NoError(t, err)
	require.Len(t, got, len(want))
	require.Equal(t, sha256.Sum256(want), sha256.Sum256(got), "the same lines in the same order")
}
