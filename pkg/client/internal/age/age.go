// Package age says how long ago something was, on a machine that may have been suspended meanwhile.
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
