package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// sendTo posts a send to a channel of a partition, of two.
func (h *node) sendTo(ctx context.Context, t *testing.T, partition int, no string) (asked, error) {
	t.Helper()
	two, err := topology.NewPartitions(2)
	require.NoError(t, err)
	for i := 0; ; i++ {
		if channel := fmt.Sprint("g", i); two.Of(channel, message.ChannelGroup) == partition {
			return h.read(ctx, http.MethodPost, "/message/send", map[string]any{
				"from_uid": "u", "channel_id": channel, "channel_type": 2, "client_msg_no": no, "payload": []byte("hi"),
			})
		}
	}
}

// awaitSend waits until a send to a partition is answered so.
func (h *node) awaitSend(t *testing.T, within time.Duration, partition int, no string, status int, says string) {
	t.Helper()
	testkit.WaitFor(t, within, fmt.Sprintf("an answer %d to a send to partition %d", status, partition), func(ctx context.Context) error {
		got, err := h.sendTo(ctx, t, partition, no)
		switch {
		case err != nil:
			return err
		case got.status != status:
			return fmt.Errorf("it is %d %s", got.status, got.text)
		}
		require.Contains(t, got.text, says)
		return nil
	})
}

// TestEndToEndStrayRecord: something publishes to a message log. Its partition stops, now and at each start, and says which
// command mends it; the process and the other partition continue.
func TestEndToEndStrayRecord(t *testing.T) {
	t.Parallel()
	up := newUp(t, "--partitions=2")
	up.Start()
	for p := range 2 {
		up.awaitSend(t, arriveTimeout, p, "before", http.StatusOK, "")
	}
	nc := connectNATS(t, "nats://"+up.nats)
	require.NoError(t, nc.Publish(topology.MessagesSubject(0), []byte("hello")))
	require.NoError(t, nc.Flush())
	nc.Close()
	stopped := func(within time.Duration) {
		up.awaitSend(t, within, 1, fmt.Sprint("other ", within), http.StatusOK, "")
		testkit.WaitFor(t, arriveTimeout, "sends to the partition to be refused at once", func(ctx context.Context) error {
			got, err := up.sendTo(ctx, t, 0, "after")
			if err == nil && got.Code != "partition_refused" {
				err = fmt.Errorf("it is %d %s", got.status, got.text)
			}
			return err
		})
		up.awaitNotReady(t, "sendhouse repair message-log --partition 0")
		up.awaitSend(t, arriveTimeout, 1, fmt.Sprint("other again ", within), http.StatusOK, "")
		status, output := command(t, "sequencer", "status", "--nats-url=nats://"+up.nats)
		require.Zero(t, status, output)
		require.Contains(t, output, "refused")
		require.Contains(t, output, "partition 0: sequencer: partition 0:")
		require.Contains(t, output, "record 2 of the message log is no batch of messages (5 bytes")
		up.requireRuns(t)
	}
	stopped(arriveTimeout)
	require.Equal(t, 0, up.Stop())
	up.Launch()
	stopped(refusalTimeout)
	require.Equal(t, 0, up.Stop())
}

// TestEndToEndClickHouseStopsNothing: whatever is wrong with ClickHouse at the start, sends are answered, the process says
// what is wrong, and when that is mended the rows come, without another start.
func TestEndToEndClickHouseStopsNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// spoil is done to a process that was stopped or, if it needs ClickHouse, just before; mend to one that runs.
		spoil      func(t *testing.T, up *node) (mend func())
		spoilFirst bool
		says       string
	}{
		"the table is gone": {
			spoil: func(t *testing.T, up *node) func() {
				up.execute(t, "DROP TABLE sendhouse.messages SYNC")
				return func() {} // it is made again
			},
			spoilFirst: true,
		},
		"a column has another type": {
			spoil: func(t *testing.T, up *node) func() {
				up.execute(t, "ALTER TABLE sendhouse.messages MODIFY COLUMN red_dot UInt16")
				return func() { up.execute(t, "ALTER TABLE sendhouse.messages MODIFY COLUMN red_dot UInt8") }
			},
			spoilFirst: true, says: "MODIFY COLUMN red_dot UInt8",
		},
		"the engine does not start": {
			spoil: spoilMetadata,
			says:  "the ClickHouse engine did not start",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := newUp(t, "--partitions=2")
			up.Start()
			up.awaitSend(t, arriveTimeout, 0, "before", http.StatusOK, "")
			embeddedTable(t, up).await(t, 1)
			var mend func()
			if c.spoilFirst {
				mend = c.spoil(t, up)
			}
			require.Equal(t, 0, up.Stop())
			if !c.spoilFirst {
				mend = c.spoil(t, up)
			}
			up.Launch()
			up.awaitSend(t, refusalTimeout, 0, "after", http.StatusOK, "")
			if c.says != "" {
				up.awaitNotReady(t, c.says)
			}
			mend()
			up.awaitReady(t)
			testkit.WaitFor(t, arriveTimeout, "the row", func(context.Context) error {
				if up.query(t, "SELECT count() FROM sendhouse.messages WHERE client_msg_no = 'after' FORMAT TSV") != "1\n" {
					return errors.New("it is not there")
				}
				return nil
			})
			require.Equal(t, 0, up.Stop())
		})
	}
}

// spoilMetadata damages the file that says what the table is.
func spoilMetadata(t *testing.T, up *node) (mend func()) {
	t.Helper()
	var path string
	require.NoError(t, filepath.WalkDir(filepath.Join(up.dataDir, "clickhouse"), func(at string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "messages.sql" {
			path = at
		}
		return err
	}))
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("ATTACH TABLE ("), 0o600))
	return func() { require.NoError(t, os.WriteFile(path, good, 0o600)) }
}

// TestEndToEndStartWithoutClickHouse: a ClickHouse that is not there, or says nothing, does not keep sends from being
// answered.
func TestEndToEndStartWithoutClickHouse(t *testing.T) {
	t.Parallel()
	for name, addr := range map[string]func(*testing.T) string{
		"refuses":      func(t *testing.T) string { return testkit.FreeAddr(t) },
		"says nothing": silentAddr,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := newUp(t, "--partitions=2") // only a first start must verify that no table has rows
			first.Start()
			require.Equal(t, 0, first.Stop())
			up := first.with(t, "--clickhouse-dsn=clickhouse://"+addr(t))
			up.Launch()
			up.awaitSend(t, refusalTimeout, 0, "1", http.StatusOK, "")
			up.awaitNotReady(t, "--clickhouse-dsn")
			require.Equal(t, 0, up.Stop())
		})
	}
}

// TestEndToEndPointerUnreadable: one bit of the record that says which checkpoints there are flips on NATS's disk. The
// checkpoints are found all the same.
func TestEndToEndPointerUnreadable(t *testing.T) {
	t.Parallel()
	up := newUp(t, "--partitions=2", "--checkpoint-interval=30s")
	up.Start()
	for p := range 2 {
		up.awaitSend(t, arriveTimeout, p, "before", http.StatusOK, "")
	}
	up.awaitCheckpoints(t)
	require.Equal(t, 0, up.Stop())
	flipped := 0
	require.NoError(t, filepath.WalkDir(filepath.Join(up.dataDir, "nats"), func(at string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(at) != ".blk" || filepath.Base(filepath.Dir(filepath.Dir(at))) != "KV_"+topology.CheckpointPointerBucket {
			return err
		}
		block, err := os.ReadFile(at)
		require.NoError(t, err)
		block[len(block)-len("1234567890123456789012345678901234567890")] ^= 1 // in the newest record
		flipped++
		return os.WriteFile(at, block, 0o600)
	}))
	require.Equal(t, 1, flipped)
	up.Launch()
	for p := range 2 {
		up.awaitSend(t, refusalTimeout, p, "after", http.StatusOK, `"message_seq":2`)
	}
	require.Contains(t, up.Output(), "checkpoint pointer was damaged")
	require.Equal(t, 0, up.Stop())
}
