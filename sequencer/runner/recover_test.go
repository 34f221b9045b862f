package runner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAnotherOwnerIsNoLossOfTheWriteAheadLog: the other read on and stored a checkpoint while this one recovers.
func TestAnotherOwnerIsNoLossOfTheWriteAheadLog(t *testing.T) {
	t.Parallel()
	logs := &brokenLogs{walEnd: 10, end: 10}
	checkpoints := &claimedCheckpoints{kept: Kept{Metas: []CheckpointMeta{{Object: "p0.1.a", WALSeq: 12}}}}
	checkpoints.claim = func() { logs.write(12) }
	require.NoError(t, newPartition(logs, checkpoints, 1024).Recover(t.Context()))

	logs, checkpoints.claim = &brokenLogs{walEnd: 11, end: 10}, nil
	err := newPartition(logs, checkpoints, 1024).Recover(t.Context())
	require.ErrorIs(t, err, ErrMissing)
	require.ErrorContains(t, err, "p0.1.a was taken at record 12, and the write-ahead log ends at 11")
}
