package clienttest

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// Before returns t, a time of this process, as it would be if the machine had slept for that long since then: the wall clock has advanced, and
// the clock that times are compared by has not. slept is of whole seconds.
func Before(tb testing.TB, t time.Time, slept time.Duration) time.Time {
	tb.Helper()
	// Where a time has both clocks, its first word has the wall clock's seconds above 30 bits of nanoseconds (package time says so).
	earlier := t
	*(*uint64)(unsafe.Pointer(&earlier)) -= uint64(slept/time.Second) << 30
	require.Equal(tb, slept, t.Round(0).Sub(earlier.Round(0)), "the wall clock")
	require.Zero(tb, t.Sub(earlier), "the other one")
	return earlier
}
