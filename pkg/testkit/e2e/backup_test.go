package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// TestEndToEndBackup starts a copy of the folder that NATS had, and of nothing else, elsewhere: it knows every
// send, continues after the last, and inserts every row into a new ClickHouse.
func TestEndToEndBackup(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	lost := newUp(t, "--dedup-window=24h")
	lost.Start()
	load := startLoad(t, lost.api, loadConfig{seed: seed, name: "first-"})
	load.await(1000)
	lost.awaitCheckpoints(t)
	records := load.finish()
	require.Equal(t, 0, lost.Stop())

	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "nats"), os.DirFS(filepath.Join(lost.dataDir, "nats"))))
	restored := newUpOn(t, dir, "--dedup-window=24h")
	restored.Launch()
	rows := embeddedTable(t, restored)
	adoptTable(t, restored)
	restored.WaitReady()
	rows.keepDuplicates(t)
	again := startLoad(t, restored.api, loadConfig{seed: seed, name: "second-"})
	again.await(500)
	natsURL := "nats://" + restored.nats
	// The writer is past what it had written into the other ClickHouse, and fills that in by itself, beside what is new.
	again.repeatSome(records, len(records)/100)
	records = append(records, again.finish()...)
	verify(t, rows, records)
	status, output := command(t, append([]string{"replay", "clickhouse", "--nats-url=" + natsURL}, restored.owner("sendhouse")...)...)
	require.Equal(t, 0, status, output)
	verify(t, rows, records) // there was nothing left to do
	audit(t, natsURL)
	require.Equal(t, 0, restored.Stop())
}

// adoptTable says that the table of a new ClickHouse is right, as an operator does, once the writer has found that it is another one.
func adoptTable(t *testing.T, h *node) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "the writer to refuse the table", func(context.Context) error {
		if !strings.Contains(h.Output(), "sendhouse repair table") {
			return errors.New("not yet")
		}
		return nil
	})
	status, output := command(t, "repair", "table", "--yes", "--nats-url=nats://"+h.nats, "--clickhouse-dsn=http://"+h.clickHouse+"/sendhouse")
	require.Equal(t, 0, status, output)
}
