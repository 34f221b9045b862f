package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAgeOfTheOldestRecord(t *testing.T) {
	t.Parallel()
	var ages walAges
	start := time.Unix(1_700_000_000, 0)
	for _, step := range []struct {
		at           int // seconds
		folded, last uint64
		want         int // seconds
	}{
		{0, 0, 0, 0},
		{5, 0, 10, 0},   // came just now
		{10, 0, 10, 5},  // nothing new: the same get older
		{15, 0, 20, 10}, // more came; the oldest counts
		{20, 9, 20, 15}, // nearly
		{25, 10, 20, 10},
		{30, 20, 20, 0},
		{3600, 20, 21, 0}, // after a long rest the first is new
		{3605, 20, 22, 5},
		{3610, 25, 22, 0}, // the look at the log is older than that at the fold
	} {
		age := ages.oldest(start.Add(time.Duration(step.at)*time.Second), step.folded, step.last)
		require.InDelta(t, step.want, age.Seconds(), 0, "%+v", step)
	}
}

func TestAgesAreBounded(t *testing.T) {
	t.Parallel()
	var ages walAges
	start := time.Unix(1_700_000_000, 0)
	for n := range 3 * looksMax {
		require.Equal(t, time.Duration(n)*time.Second, ages.oldest(start.Add(time.Duration(n)*time.Second), 0, uint64(n+1)))
	}
	require.Len(t, ages.looks, looksMax)
	now := start.Add(3 * looksMax * time.Second)
	require.Zero(t, ages.oldest(now, 3*looksMax, 3*looksMax))
	require.Empty(t, ages.looks)
}
