package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// refusalTimeout is how long a refusal at a start may take.
const refusalTimeout = 15 * time.Second

// TestEndToEndLostAndOlder takes parts of a deployment away, or replaces them by older ones, while it is stopped. Nothing is answered with
// a number that was given out, and what is in the way is named with what to do.
func TestEndToEndLostAndOlder(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	up := newUp(t, "--partitions=1")
	up.Start()
	load := startLoad(t, up.api, loadConfig{seed: seed, name: "first-"})
	load.await(300)
	records := load.finish()
	require.Equal(t, 0, up.Stop())
	older := filepath.Join(t.TempDir(), "nats")
	require.NoError(t, os.CopyFS(older, os.DirFS(filepath.Join(up.dataDir, "nats"))))
	up.Start()
	load = startLoad(t, up.api, loadConfig{seed: seed, name: "second-"})
	load.await(300)
	verify(t, embeddedTable(t, up), append(records, load.finish()...))
	require.Equal(t, 0, up.Stop())

	for name, row := range map[string]struct {
		lose func(nats string) error
		want []string
	}{
		"the record": {
			func(nats string) error { return removeStream(nats, "KV_SENDHOUSE") },
			[]string{"the deployment's record", "is lost", "SENDS_0", "sendhouse repair deployment"},
		},
		"all streams": {
			os.RemoveAll,
			[]string{"NATS holds nothing of a deployment", "rows of deployment", "sendhouse"},
		},
		"the logs": {
			func(nats string) error {
				return errors.Join(removeStream(nats, "SENDS_0"), removeStream(nats, "MESSAGES_0"))
			},
			[]string{"no partition of deployment", "SENDS_0", "sendhouse repair wal --data-dir"},
		},
		"what came after a backup of NATS": {
			func(nats string) error {
				return errors.Join(os.RemoveAll(nats), os.CopyFS(nats, os.DirFS(older)))
			},
			[]string{"the streams are older than the table", "Restore NATS as it was", "ALTER TABLE sendhouse.messages DELETE WHERE partition = 0 AND wal_seq >"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.CopyFS(dir, os.DirFS(up.dataDir)))
			require.NoError(t, row.lose(filepath.Join(dir, "nats")))
			h := newUpOn(t, dir)
			h.Launch()
			testkit.WaitFor(t, refusalTimeout, "it to be refused", func(context.Context) error {
				if !strings.Contains(h.Output(), row.want[0]) {
					return errors.New("not yet")
				}
				return nil
			})
			for _, want := range row.want {
				require.Contains(t, h.Output(), want)
			}
			status, answer, err := change(h.api, "/message/send", `{"from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`)
			if err == nil {
				require.NotEqual(t, http.StatusOK, status, answer)
			}
		})
	}
}

// removeStream takes a stream out of a folder of NATS.
func removeStream(nats, name string) error {
	found, err := filepath.Glob(filepath.Join(nats, "jetstream", "*", "streams", name))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return errors.New("there is no stream " + name)
	}
	return os.RemoveAll(found[0])
}
