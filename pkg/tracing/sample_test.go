package tracing

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func traceparent(n int) string {
	return fmt.Sprintf("00-%032x-%016x-01", n, n)
}

func TestSamplesComeBackFromTheHeader(t *testing.T) {
	t.Parallel()
	var s Samples
	for n := range 2 * SamplesMax {
		s.AddTraceparent(uint64(3*n), traceparent(n+1))
	}
	require.Len(t, s, SamplesMax)
	s.AddTraceparent(1, "")
	require.Len(t, s, SamplesMax)
	back := ParseSamples(s.String())
	require.Equal(t, s.String(), back.String())
	require.Less(t, len(s.String()), 4<<10-512, "ingest keeps 4 KiB free for headers")
	require.Equal(t, traceparent(2), back.Traceparent(3))
	require.Empty(t, back.Traceparent(4))
	require.Equal(t, "6:"+traceparent(3)+",9:"+traceparent(4), back.Between(4, 11).String())
	require.Empty(t, back.Between(4, 5))
	require.Empty(t, back.Between(1<<20, 1<<21))
}

// A request that sends many is followed once in each batch.
func TestSamplesHoldARequestOnce(t *testing.T) {
	t.Parallel()
	var s Samples
	s.AddTraceparent(0, traceparent(1))
	s.AddTraceparent(1, traceparent(2))
	s.AddTraceparent(2, traceparent(1))
	require.Len(t, s, 2)
}

// The header is no part of the record: what a foreign hand wrote there does no harm.
func TestSamplesOfNonsense(t *testing.T) {
	t.Parallel()
	good := "7:" + traceparent(1)
	for _, header := range []string{
		"", ",", ":", "7", "7:", "x:" + traceparent(1), "-1:" + traceparent(1), "99999999999:" + traceparent(1),
		"7:" + strings.Replace(traceparent(1), "-01", "-00", 1), "7:00-" + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16) + "-01",
	} {
		require.Empty(t, ParseSamples(header), header)
		require.Equal(t, good, ParseSamples(header+","+good).String(), header)
	}
	require.Equal(t, good, ParseSamples(good+",3:"+traceparent(2)).String(), "places grow")
}

func FuzzParseSamples(f *testing.F) {
	f.Add("7:" + traceparent(1) + ",9:" + traceparent(2))
	f.Add(",:,")
	f.Fuzz(func(t *testing.T, header string) {
		s := ParseSamples(header)
		require.LessOrEqual(t, len(s), SamplesMax)
		require.Equal(t, s.String(), ParseSamples(s.String()).String())
	})
}
