package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// engineKillsVariable asks for more kills than the usual three: TEST_ENGINE_KILLS=20 go test -run …
const engineKillsVariable = "TEST_ENGINE_KILLS"

// enginePID is the process of the embedded ClickHouse.
func enginePID(up *node) (int, error) {
	holder, err := os.ReadFile(filepath.Join(up.dataDir, "clickhouse", "lock"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(holder)))
}

// TestEndToEndEngineKills kills the embedded ClickHouse under load, again and again, also on its way up: no send notices, and each message
// becomes one row.
func TestEndToEndEngineKills(t *testing.T) {
	t.Parallel()
	kills := 3
	if text := os.Getenv(engineKillsVariable); text != "" {
		var err error
		kills, err = strconv.Atoi(text)
		require.NoError(t, err, engineKillsVariable)
	}
	seed := newSeed(t)
	choose := rand.New(rand.NewPCG(seed, 1<<32))
	up := newUp(t, "--flush-interval=100ms", "--dedup-window=24h")
	up.Start()
	table := embeddedTable(t, up)
	table.keepDuplicates(t)
	load := startLoad(t, up.api, loadConfig{seed: seed})
	before := 0
	for kill := range kills {
		load.await(1 + choose.IntN(2500))
		testkit.WaitFor(t, arriveTimeout, "another engine than the one that was killed", func(context.Context) error {
			pid, err := enginePID(up)
			if err == nil && pid == before {
				err = errors.New("it is the same")
			}
			if err == nil {
				before, err = pid, syscall.Kill(pid, syscall.SIGKILL)
			}
			return err
		})
		if kill%2 == 0 { // Else the next kill finds it on its way up.
			testkit.WaitFor(t, arriveTimeout, "the engine to be back", func(ctx context.Context) error {
				pid, err := enginePID(up)
				if err == nil && pid == before {
					err = errors.New("it is the same")
				}
				return errors.Join(err, up.ready(ctx))
			})
		}
	}
	load.await(500)
	records := load.finish()
	require.Empty(t, load.outcomes, "what clients saw beside 200")
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	up.awaitReady(t)
	require.Contains(t, up.Output(), "ClickHouse engine ended; starting it again")
	require.Equal(t, 0, up.Stop())
	pid, err := enginePID(up)
	require.NoError(t, err)
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d", pid)
	t.Logf("%d sends, %d kills", len(records), kills)
}
