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
)

// smallStorage mounts a small disk, which only root may.
func smallStorage(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root; run this test as root, as CI does")
	}
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", storageBytes)))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fillStorage takes what a disk has left, while others write to it too, and gives the file that takes it.
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
// then a restart of it; the roles go on by themselves, and nothing that was answered is lost.
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

	// Room alone does not help.
	require.NoError(t, os.Remove(ballast))
	load.awaitOutcome("503 wal_stalled")
	awaitWriteError(t, a.nats)
	for _, role := range a.roles() {
		role.requireRuns(t)
	}
	a.nats.Stop()
	a.nats.Start()
	load.await(500)
	for _, role := range a.roles() {
		role.awaitReady(t)
	}
	a.verify(t, load.finish())
}
