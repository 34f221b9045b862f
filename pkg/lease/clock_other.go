//go:build !linux

package lease

import "time"

// systemClock returns the time since the process started. It may not count the time
// that the machine was suspended; see the package's documentation for what that means.
func systemClock() func() time.Duration {
	started := time.Now()
	return func() time.Duration { return 1 + time.Since(started) } // never 0
}
