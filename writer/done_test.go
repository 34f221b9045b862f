package writer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A writer at its first batch has done nothing, and is there all the same.
func TestDoneTellsAFirstBatchFromNoWriter(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	for _, c := range []struct {
		write *position
		want  Recorded
	}{
		{nil, Recorded{}},
		{&position{Pending: &pendingRange{seqRange: seqRange{1, 500}, Token: "t"}}, Recorded{Any: true, Begun: 500}},
		{&position{Done: 500}, Recorded{Any: true, Done: 500, Begun: 500}},
		{&position{Done: 500, Pending: &pendingRange{seqRange: seqRange{501, 700}, Token: "t"}}, Recorded{Any: true, Done: 500, Begun: 700}},
	} {
		if c.write != nil {
			b.put(0, *c.write)
		}
		have, err := Done(b.ctx, b.js, 0)
		require.NoError(t, err)
		require.Equal(t, c.want, have)
	}
}
