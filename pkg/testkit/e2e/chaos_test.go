package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// chaosRounds is how many sequencers are killed; CHAOS_ROUNDS sets another number.
	chaosRounds = 3
	// chaosClients make several thousand sends a second on two cores.
	chaosClients = 96
	// chaosSends are answered before each kill and before each restart, at the least; CHAOS_SENDS sets another
	// number.
	chaosSends = 3000
)

// TestEndToEndChaos kills a random one of three sequencers again and again, under load, each time when the
// one killed before is back. Nothing that was answered is lost, repeated or changed. `make chaos` does it 20
// times, and wants the longest pause that a client saw to be within CHAOS_PAUSE_MAX.
func TestEndToEndChaos(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	d := rand.New(rand.NewPCG(seed, seed))
	// No owner lives for long enough to trim the logs, which must hold all that is sent.
	roomy := []string{"--wal-bytes-max=2GiB", "--messages-bytes-max=4GiB"}
	a := startApart(t, roomy...)
	sequencers := []*node{a.sequencer, a.newSequencer(t, roomy...), a.newSequencer(t, roomy...)}
	for _, s := range sequencers[1:] {
		s.Start()
	}
	begun := time.Now()
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed, clients: chaosClients})
	sends := numberOf(t, "CHAOS_SENDS", chaosSends)
	for range numberOf(t, "CHAOS_ROUNDS", chaosRounds) {
		load.await(sends)
		victim := sequencers[d.IntN(len(sequencers))]
		victim.Kill9()
		load.await(sends)
		victim.Start()
	}
	load.await(sends)
	records := load.finish()
	pause := longestPause(records)
	t.Logf("%d sends answered, %.0f a second with all pauses; the longest wait of a client, over its retries, was %s",
		len(records), float64(len(records))/time.Since(begun).Seconds(), pause)
	if text := os.Getenv("CHAOS_PAUSE_MAX"); text != "" {
		most, err := time.ParseDuration(text)
		require.NoError(t, err)
		require.LessOrEqual(t, pause, most)
	}
	a.verify(t, records)
	for _, s := range sequencers[1:] {
		require.Equal(t, 0, s.Stop())
	}
}

// numberOf is a number that the environment may set.
func numberOf(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	number, err := strconv.Atoi(text)
	require.NoError(t, err)
	require.Positive(t, number)
	return number
}

func longestPause(records []*record) time.Duration {
	var longest time.Duration
	for _, r := range records {
		longest = max(longest, r.answered.Sub(r.begun))
	}
	return longest
}
