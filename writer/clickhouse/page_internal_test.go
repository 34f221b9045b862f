package clickhouse

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The server stops when the caller has stopped waiting.
func TestReadSettings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		require.Equal(t, "max_threads = 1, max_execution_time = 60", readSettings(t.Context()))
		for left, want := range map[time.Duration]string{
			-time.Second: "1", 0: "1", time.Millisecond: "1", 2500 * time.Millisecond: "3", 5 * time.Second: "5", time.Hour: "60",
		} {
			ctx, cancel := context.WithTimeout(t.Context(), left)
			require.Equal(t, "max_threads = 1, max_execution_time = "+want, readSettings(ctx), left)
			cancel()
		}
	})
}
