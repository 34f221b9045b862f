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
	// chaosSends are answered between two kills, at the least.
	chaosSends = 3000
)

// TestEndToEndChaos kills a random one of three sequencers again and again, under load, each time when the
// one killed before is back. Nothing that was answered is lost, repeated or changed. `make chaos` does it 20
// times, and wants the longest pause that a client saw to be within CHAOS_PAUSE_MAX.
func TestEndToEndChaos(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	d := rand.New(rand.NewPCG(seed, seed))
	a := startApart(t)
	sequencers := []*house{a.sequencer, a.newSequencer(t), a.newSequencer(t)}
	for _, s := range sequencers[1:] {
		s.Start()
	}
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed, clients: chaosClients})
	for range roundsOf(t) {
		load.await(chaosSends)
		victim := sequencers[d.IntN(len(sequencers))]
		victim.Kill9()
		load.await(chaosSends)
		victim.Start()
	}
	load.await(chaosSends)
	records := load.finish()
	pause := longestPause(records)
	t.Logf("%d sends answered; the longest wait of a client, over its retries, was %s", len(records), pause)
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

func roundsOf(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CHAOS_ROUNDS")
	if text == "" {
		return chaosRounds
	}
	rounds, err := strconv.Atoi(text)
	require.NoError(t, err)
	require.Positive(t, rounds)
	return rounds
}

func longestPause(records []*record) time.Duration {
	var longest time.Duration
	for _, r := range records {
		longest = max(longest, r.answered.Sub(r.begun))
	}
	return longest
}
