package runner

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// unsettled is a keeper that has recovered before the kept checkpoints, of records 11 and 12, since the message log ended
// at record 10.
func unsettled(t *testing.T) (*Keeper, *brokenLogs) {
	t.Helper()
	logs := &brokenLogs{walEnd: 12, end: 10}
	kept := Kept{Metas: []CheckpointMeta{{Object: "p0.1.b", WALSeq: 12}, {Object: "p0.1.a", WALSeq: 11}}}
	p := newPartition(logs, &claimedCheckpoints{kept: kept}, 1024)
	require.NoError(t, p.Recover(t.Context()))
	k := p.Keeper()
	require.NoError(t, k.Look(t.Context()))
	return k, logs
}

// settled is that keeper a while after the message log has come to reach both.
func settled(t *testing.T) (*Keeper, *brokenLogs) {
	t.Helper()
	k, logs := unsettled(t)
	logs.rewrite(12, time.Now())
	require.NoError(t, k.Look(t.Context()))
	pass(durableHorizon)
	return k, logs
}

// outcomes are how storing a checkpoint and trimming end; what is to be stored gets as far as the store, which takes nothing.
func outcomes(t *testing.T, k *Keeper) (store, trim error) {
	t.Helper()
	trim = k.Trim(t.Context())
	return k.Store(t.Context(), k.Snapshot()), trim
}

// TestRecordsWrittenAgainAreNew: an owner that has lost its lease writes what a power loss took again between two looks, and
// the keeper, which had none of it acknowledged, never sees a shorter message log. What rests on those records is as new as
// they are: a second power loss would take them, and no kept checkpoint would be left to recover from.
func TestRecordsWrittenAgainAreNew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, logs := unsettled(t)
		store, _ := outcomes(t, k)
		require.ErrorIs(t, store, errUnsettled, "not reached")

		logs.rewrite(12, time.Now())
		require.NoError(t, k.Look(t.Context()))
		pass(durableHorizon - time.Second)
		logs.rewrite(12, time.Now())
		pass(time.Second)
		store, trim := outcomes(t, k)
		require.ErrorIs(t, trim, errUnsettled)
		require.ErrorIs(t, store, errUnsettled)
		pass(durableHorizon - time.Second)
		store, _ = outcomes(t, k)
		require.ErrorIs(t, store, errUnsettled)

		pass(time.Second)
		store, trim = outcomes(t, k)
		require.NoError(t, trim)
		require.ErrorIs(t, store, errNotStored)
	})
}

// TestLostRecordsAreNotReached: the message log is shorter, and still has all that this owner had acknowledged.
func TestLostRecordsAreNotReached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, logs := settled(t)
		logs.rewrite(10, time.Now())
		store, trim := outcomes(t, k)
		require.ErrorIs(t, trim, errUnsettled)
		require.ErrorIs(t, store, errUnsettled)
	})
}

// TestRecordsDroppedByRetentionStaySettled: they are gone from the front because they are old.
func TestRecordsDroppedByRetentionStaySettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, logs := settled(t)
		logs.rewrite(12, time.Time{})
		store, trim := outcomes(t, k)
		require.NoError(t, trim)
		require.ErrorIs(t, store, errNotStored)
	})
}
