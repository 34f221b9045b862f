package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// drainTimeout is longer than a stop may take with the default settings.
const drainTimeout = 30 * time.Second

// refusals are what a client may see of a process that stops: a refusal, or no listener. The two ends
// of a connection can be closed and written to at the same time, then nothing was read of the request.
var refusals = map[string]bool{
	"503 draining": true, "connection refused": true, "connection reset by peer": true, "EOF": true, "broken pipe": true,
	"server closed idle connection": true,
}

// TestEndToEndStop stops the whole under load. Its clients do not try again, so each request that was taken
// must get its answer; and what got none is not in ClickHouse either, then or after the next start.
func TestEndToEndStop(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	up := newUp(t)
	up.Start()
	embeddedTable(t, up).keepDuplicates(t)

	load := startLoad(t, up.api, loadConfig{seed: seed, name: "first-", once: true})
	load.await(1000)
	up.Signal(syscall.SIGTERM)
	up.Signal(syscall.SIGINT) // as a supervisor does that signals twice
	require.Equal(t, 0, up.Wait(drainTimeout), "exit status")
	records := load.finish()
	for outcome := range load.outcomes {
		require.True(t, refusals[outcome], "a request that was under way: %q", outcome)
	}
	require.NotEmpty(t, load.lost, "no send was refused: the load had ended before the stop")

	// The next start continues at the next message_seq of each channel.
	up.Start()
	table := embeddedTable(t, up)
	again := startLoad(t, up.api, loadConfig{seed: seed, name: "second-"})
	again.await(1000)
	records = append(records, again.finish()...)
	verify(t, table, records)

	// Who was refused can send again.
	for _, s := range load.lost {
		r := &record{send: s, begun: time.Now()}
		var ok bool
		r.answer, ok = again.deliver(t.Context(), &r.send, false)
		require.True(t, ok)
		r.answered = time.Now()
		records = append(records, r)
	}
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	require.Equal(t, 0, up.Stop())
}

// TestEndToEndLockedFolder starts while the process before still holds a data folder, as one does that was
// killed and takes a while to be gone.
func TestEndToEndLockedFolder(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"nats/LOCK", "clickhouse/lock"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			up := newUp(t)
			path := filepath.Join(up.dataDir, file)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
			lock, err := lifecycle.Lock(path, 0, nil)
			require.NoError(t, err)
			up.Launch()
			testkit.WaitFor(t, arriveTimeout, "it to wait", func(context.Context) error {
				if !strings.Contains(up.Output(), "data folder is locked; waiting") {
					return errors.New("it does not say so")
				}
				return nil
			})
			require.NoError(t, lock.Close())
			up.awaitReady(t)
			require.Equal(t, 0, up.Stop())
		})
	}
}
