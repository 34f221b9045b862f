package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// systemClock returns the time since boot. Unlike Go's monotonic clock
// (CLOCK_MONOTONIC) it counts the time that the machine was suspended.
func systemClock() func() time.Duration {
	started := time.Now()
	return func() time.Duration {
		var t unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil { // Linux before 2.6.39; then it fails each time
			return time.Since(started)
		}
		return time.Duration(t.Nano())
	}
}
