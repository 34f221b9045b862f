package messagelog_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
)

// Who follows gets the messages of records of many, of one and of none, from within a record on, and what comes later.
func TestFollowsRecordsOfEverySize(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		first    uint64
		channels []messagelog.Channel
		want     []uint64
	}{
		"from the beginning":     {1, nil, []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		"from within a record":   {3, nil, []uint64{3, 4, 5, 6, 7, 8}},
		"from what comes":        {6, nil, []uint64{6, 7, 8}},
		"from within what comes": {7, nil, []uint64{7, 8}},
		"one channel":            {2, []messagelog.Channel{group("a")}, []uint64{3, 4, 6, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCommits(t)
			c.write()
			c.write("a", "b", "a")
			c.write()
			c.write("a")
			c.write("b")
			c.write()
			come := func() {
				c.write("a", "b")
				c.write()
				c.write("a")
			}
			if row.first > 5 {
				come() // nothing that is there calls the handler below
			}
			ctx, cancel := context.WithCancel(c.ctx)
			var got []uint64
			require.ErrorIs(t, c.log.Follow(ctx, row.first, row.channels, func(e messagelog.Entry) error {
				require.Equal(t, c.in[e.PartitionSeq], e.StreamSeq)
				got = append(got, e.PartitionSeq)
				if len(c.in) == 6 {
					come()
				}
				if e.PartitionSeq == 8 {
					cancel()
				}
				return nil
			}), context.Canceled)
			require.Equal(t, row.want, got)
		})
	}
}
