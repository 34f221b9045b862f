package process

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCollectorAdjusts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		inForce int
		live    uint64
		want    int // 0: left as it is
	}{
		"little in use":         {inForce: 100, live: 64 << 20, want: 400},
		"next to nothing":       {inForce: 100, live: 0, want: 6400},
		"a million channels":    {inForce: 400, live: 160 << 20, want: 100},
		"little room left":      {inForce: 400, live: 200 << 20, want: 60},
		"near the bound":        {inForce: 400, live: 300 << 20, want: 50},
		"more in use than that": {inForce: 400, live: 512 << 20, want: 100},
		"nearly right":          {inForce: 400, live: 66 << 20},
		"right":                 {inForce: 100, live: 8 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			collector, set := &collector{spare: 256 << 20, percent: c.inForce}, 0
			collector.adjust(c.live, func(percent int) int { set = percent; return c.inForce })
			require.Equal(t, c.want, set)
			if c.want > 0 {
				require.Equal(t, c.want, collector.percent)
			}
		})
	}
}
