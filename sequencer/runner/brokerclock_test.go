package runner

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Between machines the two clocks are compared at the middle of the question.
func TestBrokerClockOffset(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c brokerClock
		before := time.Now()
		pass(2 * time.Second)
		require.Equal(t, 3*time.Second, c.look(before, time.Now(), before.Add(4*time.Second)))
		pass(time.Minute)
		require.Equal(t, -time.Hour, c.look(time.Now(), time.Now(), time.Now().Add(-time.Hour)))
		require.Equal(t, 2*time.Second, c.ago(time.Now(), time.Now().Add(-time.Hour-2*time.Second)))
	})
}

// On one machine both clocks step together, and the own clock shows it until the new time has stood for ten minutes.
func TestBrokerClockStepsWithTheMachines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c brokerClock
		require.Zero(t, c.look(time.Now(), time.Now(), time.Now()))
		const by = 400 * 24 * time.Hour
		c.own = c.own.Add(-by) // the machine's clock steps ahead of it
		look := func() time.Duration { return c.look(time.Now(), time.Now(), time.Now()) }
		require.Equal(t, by, look())
		require.Zero(t, c.ago(time.Now(), time.Now()), "delays are not measured by the own clock")
		pass(clockSettled - time.Second)
		require.Equal(t, by, look())
		c.own = c.own.Add(by - 2*time.Hour) // and again
		require.Equal(t, 2*time.Hour, look())
		pass(clockSettled - time.Second)
		require.Equal(t, 2*time.Hour, look())
		pass(time.Second)
		require.Zero(t, look(), "it is the machine's correction")
	})
}

func TestClockStepsBetweenRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c brokerClock
		now := time.Now()
		require.Zero(t, c.record(now, now.Add(-time.Hour)), "the first")
		require.Zero(t, c.record(now, now), "nothing is known of the clock")
		require.Equal(t, -2*time.Hour, c.record(now, now.Add(-2*time.Hour)))
		c.look(now, now, now)
		require.Zero(t, c.record(now, now), "right again: the records were two hours apart, and it is now")
		require.Zero(t, c.record(now, now.Add(4*time.Second)))
		require.Equal(t, 400*24*time.Hour-4*time.Second, c.record(now, now.Add(400*24*time.Hour)))
		require.Zero(t, c.record(now, now.Add(400*24*time.Hour+time.Second)), "it has stepped once")
		require.Equal(t, -(400*24*time.Hour + time.Second), c.record(now, now))
	})
}
