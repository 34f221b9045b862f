package load

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// The checker says of each sequence whether it is new, in any order, as a set would.
func TestSequencesInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newChecker(1)
		seen := make(map[uint64]bool)
		highest := uint64(0)
		for _, seq := range rapid.SliceOf(rapid.Uint64Range(1, 30)).Draw(t, "sequences") {
			require.Equal(t, !seen[seq], c.takeSeq(0, seq), "%d", seq)
			seen[seq] = true
			highest = max(highest, seq)
		}
		c.finish()
		require.Equal(t, uint64(len(seen)) == highest, c.violations == 0, c.first)
	})
}

func TestIDsOnce(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := newChecker(1)
	start := int64(1_000_000)
	var ids []message.ID
	for ms := range int64(200) {
		for counter := range 50 {
			ids = append(ids, message.MakeID(start+ms, 5, counter))
		}
	}
	random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, id := range ids {
		require.True(t, c.takeID(id), "%d", id)
	}
	for _, id := range ids {
		require.False(t, c.takeID(id), "%d", id)
	}
	require.True(t, c.takeID(message.MakeID(start, 6, 0)), "another partition")
	require.True(t, c.takeID(message.MakeID(start+idHorizonMilli+500, 5, 0)))
	require.True(t, c.takeID(ids[0]), "too old to tell")
	require.EqualValues(t, 1, c.unchecked)
	// The ring is used again, and what lay in it is forgotten.
	require.True(t, c.takeID(message.MakeID(start+idHorizonMilli+10, 5, 0)))
	require.False(t, c.takeID(message.MakeID(start+idHorizonMilli+10, 5, 0)))
}
