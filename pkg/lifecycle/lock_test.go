package lifecycle_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

func TestLockIsWaitedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := lifecycle.Lock(path, 0, nil)
	require.NoError(t, err)

	_, err = lifecycle.Lock(path, 0, nil)
	var locked *lifecycle.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, strconv.Itoa(os.Getpid()), locked.Holder)
	require.ErrorContains(t, err, path)

	second, err := lifecycle.Lock(path, time.Minute, func(err error) {
		require.ErrorAs(t, err, &locked)
		require.NoError(t, first.Close()) // the holder ends
	})
	require.NoError(t, err)
	require.NoError(t, second.Close())
}

func TestLockThatCannotBeMade(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gone", "lock")
	_, err := lifecycle.Lock(path, time.Minute, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, path)
}
