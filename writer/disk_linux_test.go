package writer

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

const (
	diskBytes      = 96 << 20
	diskLeftBytes  = 4 << 20
	diskRecords    = 20_000
	diskPayload    = 1024 // random, so that it does not get smaller on its way
	diskWaitFilled = time.Minute
)

// smallDisk mounts a small disk, which only root may.
func smallDisk(t *testing.T) string {
	t.Helper()
	testkit.RequireRoot(t)
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes)))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fill leaves a disk with little room, and returns the file that occupies it.
func fill(t *testing.T, dir string) string {
	t.Helper()
	var disk syscall.Statfs_t
	require.NoError(t, syscall.Statfs(dir, &disk))
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, int64(disk.Bavail)*disk.Bsize-diskLeftBytes), 0o600))
	return ballast
}

// publishLarge appends records that do not compress.
func (b *bundle) publishLarge(first, last int) {
	b.t.Helper()
	for n := first; n <= last; n++ {
		payload := make([]byte, diskPayload)
		_, _ = rand.Read(payload) // never fails
		m := &message.Message{
			ChannelId: "channel", ChannelType: 2, FromUid: "user", Payload: payload,
			MessageId: uint64(b.ids[0].Next(time.Now().UnixMilli())), MessageSeq: uint64(n), WalSeq: uint64(n),
		}
		record, err := m.MarshalVT()
		require.NoError(b.t, err)
		b.publishRecord(0, record)
	}
	b.flush()
}

// awaitRetrying waits until the writer says of its partition that it tries again.
func (b *bundle) awaitRetrying() (problem string) {
	b.t.Helper()
	testkit.WaitFor(b.t, diskWaitFilled, "the writer to be refused", func(ctx context.Context) error {
		all, err := Status(ctx, b.js, 1)
		if err == nil && all[0].State != string(stateRetrying) {
			err = fmt.Errorf("%+v", all[0])
		}
		if err == nil {
			problem = all[0].Problem
		}
		return err
	})
	return problem
}

// The disk of ClickHouse is full: the writer waits, drops nothing, and continues when there is room.
func TestEndToEndDiskFull(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t)
	b := setup(t, 1)
	server := enginetest.NewServer(t, dir, testkit.FreeAddr(t))
	server.Start()
	cfg := b.config(server.DSN("test"))
	cfg.FlushRowsMax = 1000
	stop := b.start(b.service(cfg))
	b.publishLarge(1, 100)
	b.waitDone(0, 100)
	ballast := fill(t, dir)
	b.publishLarge(101, diskRecords)
	t.Log(b.awaitRetrying())
	require.Less(t, b.recorded(0).Done, uint64(diskRecords))
	require.NoError(t, os.Remove(ballast))
	b.waitDone(0, diskRecords)
	require.NoError(t, stop())
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, diskRecords, rows)
	require.EqualValues(t, diskRecords, different)
	stream, err := b.js.Stream(b.ctx, "DEAD_LETTERS")
	require.NoError(t, err)
	require.Zero(t, stream.CachedInfo().State.Msgs)
}
