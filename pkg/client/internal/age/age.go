// Package age has the rule for sending a send again that may be stored, and how long ago something was, on a machine that may have been suspended
// meanwhile.
package age

import (
	"math"
	"time"
)

// Unknown is the age of what lies in the future by the wall clock: it was set back, and tells nothing.
const Unknown = time.Duration(math.MaxInt64)

// Of is how long before now since was, or longer. On Linux the clock that Go's times are compared by stands still while the machine is
// suspended, and the wall clock can be set: of the two ages the greater one counts.
func Of(since, now time.Time) time.Duration {
	wall := now.Round(0).Sub(since.Round(0))
	if wall < 0 {
		return Unknown
	}
	return max(wall, now.Sub(since))
}

const (
	// WindowTrusted is how long what the server said of its window is relied on for sending again what may be stored.
	WindowTrusted = 5 * time.Second
	// Assumed is for how long a server is taken to remember a send if it has no route that reports it.
	Assumed = time.Minute
)

// ResendWithin is how long after the start of its first try that may be stored a send may be sent again: for as long as the server remembers it, or
// limit, if that is shorter. Either is 0 if it is not known; the result is 0 if both are: then it may not be sent again yet.
func ResendWithin(remembers, limit time.Duration) time.Duration {
	if remembers == 0 || limit > 0 && limit < remembers {
		return limit
	}
	return remembers
}
