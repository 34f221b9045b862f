package config

import (
	"fmt"
	"time"
)

// Moment is a point in time, given as such or as a duration before now.
type Moment struct{ time.Time }

// UnmarshalText reads 2026-01-31T12:00:00Z, 2026-01-31, or 15m.
func (m *Moment) UnmarshalText(text []byte) error {
	in := string(text)
	if before, err := time.ParseDuration(in); err == nil && before >= 0 {
		m.Time = time.Now().Add(-before)
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if at, err := time.Parse(layout, in); err == nil {
			m.Time = at
			return nil
		}
	}
	return fmt.Errorf("%q is not a time: want 2026-01-31T12:00:00Z, 2026-01-31 (UTC), or a time before now as in 15m", in)
}
