package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// killsVariable asks for more kills than the usual ten: TEST_KILLS=200 go test -run …
const killsVariable = "TEST_KILLS"

// TestEndToEndKill9 kills the whole under load, ten times, and holds the answers that clients got against
// what is in ClickHouse.
func TestEndToEndKill9(t *testing.T) {
	t.Parallel()
	kills := 10
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		kills, err = strconv.Atoi(text)
		require.NoError(t, err, killsVariable)
	}
	seed := newSeed(t)
	choose := rand.New(rand.NewPCG(seed, 1<<32))
	// More and smaller inserts than usual, so that many a kill finds one under way; and a window in which the
	// repeats of a long run are known.
	up := newUp(t, "--flush-interval=100ms", "--checkpoint-interval=30s", "--dedup-window=24h")
	up.Start()
	table := embeddedTable(t, up)
	table.keepDuplicates(t)

	load := startLoad(t, up.api, loadConfig{seed: seed})
	for kill := range kills {
		load.await(1 + choose.IntN(2500))
		if kill == kills/2 { // from now on a start continues from a checkpoint
			up.awaitCheckpoints(t)
		}
		if kill%3 == 0 { // on its way down
			up.Signal(syscall.SIGTERM)
			killWithin(up, time.Duration(choose.IntN(300))*time.Millisecond)
		} else {
			up.Kill9()
		}
		if kill%3 == 2 { // and again, on its way up
			up.Launch()
			killWithin(up, time.Duration(choose.IntN(1200))*time.Millisecond)
		}
		up.Start()
	}
	require.Regexp(t, "recovered the state.*from_wal_seq=[1-9]", up.Output())
	load.await(500)
	records := load.finish()
	verify(t, table, records)

	// An orderly restart changes nothing, and what was answered before the first kill is still known.
	require.Equal(t, 0, up.Stop())
	up.Start()
	load.repeatSome(records, len(records)/100)
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	t.Logf("%d sends, %d repeats; what else the clients saw: %v", len(records), load.repeats, load.outcomes)
}

// killWithin kills a process after some time, unless it has ended by then.
func killWithin(h *node, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.Done():
	}
	h.Signal(syscall.SIGKILL)
	<-h.Done()
}
