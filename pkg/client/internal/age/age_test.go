package age_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client/internal/age"
	"github.com/sendhouse/sendhouse/pkg/client/internal/clienttest"
)

func TestOf(t *testing.T) {
	t.Parallel()
	now := time.Now()
	require.Equal(t, time.Minute, age.Of(now.Add(-time.Minute), now))
	require.Equal(t, time.Hour, age.Of(clienttest.Before(t, now, time.Hour), now), "the machine slept")
	require.Equal(t, time.Hour, age.Of(now.Add(-time.Hour).Round(0), now), "read from a disk")
	setBack := clienttest.Before(t, now.Add(-time.Hour), -time.Minute)
	require.Equal(t, time.Hour, age.Of(setBack, now), "the wall clock was set back, by less than the age")
	require.Equal(t, age.Unknown, age.Of(clienttest.Before(t, now, -time.Second), now), "the wall clock was set back")
	require.Equal(t, age.Unknown, age.Of(now.Add(time.Second).Round(0), now))
}

func TestResendWithin(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ remembers, limit, want time.Duration }{
		{time.Hour, 0, time.Hour},
		{time.Hour, time.Minute, time.Minute},
		{time.Minute, time.Hour, time.Minute}, // a limit only shortens
		{0, time.Minute, time.Minute},
		{0, 0, 0},
	} {
		require.Equal(t, row.want, age.ResendWithin(row.remembers, row.limit), "%+v", row)
	}
}
