package fold

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// The index keeps 31 bits of a position. When they overflow, and among keys that
// collide, every entry kept is found and no other.
func TestWindowFindsWhatItKeeps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWindow()
		start := rapid.SampledFrom([]uint64{0, 1<<31 - 500, 1<<32 - 500, 1<<33 + 4096}).Draw(t, "start")
		w.entries.first, w.entries.next = start, start
		most := rapid.IntRange(1, 900).Draw(t, "most")
		home := rapid.Uint64Range(1, 64).Draw(t, "homes")
		for i := range uint64(3000) {
			if w.len() == most {
				w.evict()
			}
			// Few different hashes, so that probes are long; the second word tells the keys apart.
			w.add(windowEntry{key: [2]uint64{i % home << 3, i}, id: message.ID(i)})
		}
		require.Equal(t, most, w.len())
		for i := range uint64(3000) {
			e := w.find([2]uint64{i % home << 3, i})
			require.Equal(t, i >= uint64(3000-most), e != nil, "key %d", i)
			if e != nil {
				require.EqualValues(t, i, e.id)
			}
		}
	})
}
