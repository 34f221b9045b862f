package lifecycle_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

func TestRepeatedGrows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r lifecycle.Repeated
		require.False(t, r.Over())
		start := time.Now()
		var lines []time.Duration
		skipped := 0
		for time.Since(start) < time.Hour {
			if n, due := r.Due("NATS is away"); due {
				lines = append(lines, time.Since(start))
				skipped += n
			}
			<-time.After(time.Second)
		}
		require.Equal(t, []time.Duration{
			0, 10 * time.Second, 30 * time.Second, 70 * time.Second, 150 * time.Second, 310 * time.Second, 630 * time.Second,
			1230 * time.Second, 1830 * time.Second, 2430 * time.Second, 3030 * time.Second,
		}, lines)
		require.Equal(t, 3030-10, skipped)

		_, due := r.Due("it refuses")
		require.True(t, due, "something else")
		_, due = r.Due("it refuses")
		require.False(t, due)
		require.True(t, r.Over())
		_, due = r.Due("it refuses")
		require.True(t, due, "again")
		<-time.After(2 * time.Minute)
		_, due = r.Due("it refuses")
		require.True(t, due, "after a while without")
	})
}
