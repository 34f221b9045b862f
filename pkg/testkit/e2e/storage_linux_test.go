package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	storageBytes      = 192 << 20
	storagePieceBytes = 64 << 10
	// embeddedStorageBytes has room for what a deployment reserves, of which dead letters are the most.
	embeddedStorageBytes = 640 << 20
)

// smallStorage mounts a small disk, which only root may.
func smallStorage(t *testing.T) string {
	t.Helper()
	testkit.RequireRoot(t)
	dir := t.TempDir()
	mountSmall(t, dir, storageBytes)
	return dir
}

// mountSmall mounts a small disk on a folder.
func mountSmall(t *testing.T, dir string, bytes int) {
	t.Helper()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}

// fillStorage takes what a disk has left, while others write to it too, and returns the file that takes it.
func fillStorage(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	file, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	for piece := make([]byte, storagePieceBytes); err == nil; {
		_, err = file.Write(piece)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, file.Close())
	return ballast
}

// awaitWriteError waits until the server says that it cannot write to a write-ahead log.
func awaitWriteError(t *testing.T, server *testkit.NATSServer) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "a write error of a write-ahead log", func(ctx context.Context) error {
		status, body, err := ask(ctx, server.MonitorURL+"/healthz?details=true")
		if err == nil && (status == http.StatusOK || !strings.Contains(body, "SENDS_") || !strings.Contains(body, "no space left")) {
			err = fmt.Errorf("/healthz: %d %s", status, body)
		}
		return err
	})
}

// TestEndToEndStorageFull fills the disk under JetStream while clients send. They are refused with a code of its
// own. A NATS server that could not write to a stream does not try again by itself, so there has to be room and
// then a restart of it; the roles continue by themselves, and nothing that was answered is lost.
func TestEndToEndStorageFull(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	disk := smallStorage(t)
	a := startApartOn(t, testkit.NATSOptions{StoreDir: filepath.Join(disk, "jetstream")})
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed})
	load.await(500)
	ballast := fillStorage(t, disk)
	awaitWriteError(t, a.nats)
	load.awaitOutcome("503 wal_stalled")
	a.ingest.awaitAPI(t, http.StatusServiceUnavailable, "partition 0: ")

	// Room alone does not help.
	require.NoError(t, os.Remove(ballast))
	load.awaitOutcome("503 wal_stalled")
	awaitWriteError(t, a.nats)
	a.ingest.awaitAPI(t, http.StatusServiceUnavailable, "partition 0: ")
	for _, role := range a.roles() {
		role.requireRuns(t)
	}
	a.nats.Stop()
	a.nats.Start()
	load.await(500)
	for _, role := range a.roles() {
		role.awaitReady(t)
	}
	a.ingest.awaitAPI(t, http.StatusOK, "ready")
	a.verify(t, load.finish())
}

// TestEndToEndEmbeddedStorageFull fills the disk under the embedded NATS server while clients send, twice. When there is room again it is
// restarted within the process, and sends are answered; nothing that was answered before is lost or numbered again.
func TestEndToEndEmbeddedStorageFull(t *testing.T) {
	t.Parallel()
	testkit.RequireRoot(t)
	seed := newSeed(t)
	dataDir := t.TempDir()
	disk := filepath.Join(dataDir, "nats")
	require.NoError(t, os.Mkdir(disk, 0o750))
	mountSmall(t, disk, embeddedStorageBytes)
	up := newUpOn(t, dataDir, "--ingest-ack-timeout=1s", "--ingest-answer-timeout=3s", "--checkpoint-interval=30s", "--wal-bytes-max=48MiB", "--messages-bytes-max=64MiB")
	up.Start()
	table := embeddedTable(t, up)
	load := startLoad(t, up.api, loadConfig{seed: seed})
	for range 2 {
		load.await(500)
		ballast := fillStorage(t, disk)
		up.awaitNotReady(t, syscall.ENOSPC.Error())
		load.awaitOutcome("503 wal_stalled")
		up.awaitAPI(t, http.StatusServiceUnavailable, "partition")
		require.NoError(t, os.Remove(ballast))
		load.await(500)
		up.awaitReady(t)
		up.awaitAPI(t, http.StatusOK, "ready")
		up.requireRuns(t)
	}
	records := load.finish()
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	require.Contains(t, up.Output(), "embedded NATS server was restarted within the process")
	require.Equal(t, 0, up.Stop())
}
