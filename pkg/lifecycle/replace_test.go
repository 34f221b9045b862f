package lifecycle_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

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
