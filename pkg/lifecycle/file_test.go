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

func TestReplaceFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	// What a process has left that died while it wrote is neither used nor in the way, whoever may read it.
	require.NoError(t, os.WriteFile(path+".new", []byte("a half"), 0o644))
	for _, content := range []string{"first", "second, and longer"} {
		require.NoError(t, lifecycle.ReplaceFile(path, []byte(content), 0o600))
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(have))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, names, 1)

	require.ErrorContains(t, lifecycle.ReplaceFile(filepath.Join(dir, "missing", "file"), nil, 0o600), "missing")
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.ErrorContains(t, lifecycle.ReplaceFile(folder, nil, 0o600), "folder")
	require.NoFileExists(t, folder+".new")
}
