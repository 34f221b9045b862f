package powercut_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit/powercut"
)

// A synced file survives every cut, whole; one that was only written does not survive where the
// cache is lost, and one that was written back has its pages on the disk without a flush.
func TestWhatSurvives(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, filesystem := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(filesystem, func(t *testing.T) {
			t.Parallel()
			if err := powercut.Missing(filesystem); err != nil {
				if os.Getenv("CI") != "" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			random := rand.New(rand.NewPCG(seed, 0))
			d := powercut.NewDisk(t, filesystem)
			content := bytes.Repeat([]byte("durable?"), 40_000)
			for n := range 16 {
				outcome := powercut.Outcome(n % 4)
				before := d.Flushes()
				synced, written := filepath.Join(d.Path(), fmt.Sprint("synced", n)), filepath.Join(d.Path(), "written")
				put(t, synced, content, true)
				require.Greater(t, d.Flushes(), before, "fsync brings a flush to the device")
				put(t, written, content, false)
				d.WriteBack(random)
				cuts := powercut.PowerOff(random, outcome, func() {}, d)
				d.PowerOn()
				for earlier := range n + 1 {
					have, err := os.ReadFile(filepath.Join(d.Path(), fmt.Sprint("synced", earlier)))
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, have), "synced file %d after cut %d: %v", earlier, n, cuts)
				}
				if outcome == powercut.KeepNone {
					require.NoFileExists(t, written)
				}
				require.NoError(t, os.RemoveAll(written))
			}
		})
	}
}

// put writes a file and its folder, synced or not.
func put(t *testing.T, path string, content []byte, synced bool) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = f.Write(content)
	require.NoError(t, err)
	if synced {
		require.NoError(t, f.Sync())
		dir, err := os.Open(filepath.Dir(path))
		require.NoError(t, err)
		require.NoError(t, dir.Sync())
		require.NoError(t, dir.Close())
	}
	require.NoError(t, f.Close())
}
