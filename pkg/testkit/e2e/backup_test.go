package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// TestEndToEndBackup starts a copy of the folder that NATS had, and of nothing else, elsewhere: it knows every
// send, goes on behind the last, and gives a new ClickHouse every row.
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
	adoptTable(t, restored, rows)
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
func adoptTable(t *testing.T, h *house, rows *table) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "the writer to refuse the table", func(context.Context) error {
		if !strings.Contains(h.Output(), "sendhouse repair table") {
			return errors.New("not yet")
		}
		return nil
	})
	var uuid string
	require.NoError(t, rows.conn.QueryRow(t.Context(), "SELECT toString(uuid) FROM system.tables WHERE database = 'sendhouse' AND name = 'messages'").Scan(&uuid))
	nc, err := nats.Connect("nats://" + h.nats)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), topology.WriterBucket)
	require.NoError(t, err)
	keys, err := kv.Keys(t.Context())
	require.NoError(t, err)
	for _, key := range keys {
		entry, err := kv.Get(t.Context(), key)
		require.NoError(t, err)
		var at map[string]any
		decoder := json.NewDecoder(bytes.NewReader(entry.Value()))
		decoder.UseNumber()
		require.NoError(t, decoder.Decode(&at))
		at["table"] = map[string]string{"database": "sendhouse", "uuid": uuid}
		value, err := json.Marshal(at)
		require.NoError(t, err)
		_, err = kv.Update(t.Context(), key, value, entry.Revision())
		require.NoError(t, err)
	}
}
