package e2e

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// idleBytesMax is what `up` and its engine may need together with nothing to do. Most of it is the engine's.
const idleBytesMax = 600 << 20

func TestEndToEndMemory(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/smaps_rollup"); err != nil {
		testkit.Lacking(t, "/proc/PID/smaps_rollup, to read the memory of a process from")
	}
	up := newUp(t)
	up.Start()
	load := startLoad(t, up.api, loadConfig{seed: newSeed(t)}) // so that what is needed to work at all has been loaded
	load.await(100)
	embeddedTable(t, up).await(t, len(load.finish()))
	processes, err := testkit.ProcessTree(up.PID())
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(processes), 2, "the engine is a process of its own")
	used, err := testkit.MemoryBytes(up.PID())
	require.NoError(t, err)
	t.Logf("%d MiB in %d processes", used>>20, len(processes))
	require.Less(t, used, idleBytesMax)
}
