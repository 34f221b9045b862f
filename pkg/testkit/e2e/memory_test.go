package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// idleBytesMax is what `up` may need with nothing to do. Most of it is the ClickHouse engine.
const idleBytesMax = 600 << 20

func TestEndToEndMemory(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.Start()
	load := startLoad(t, up.api, loadConfig{seed: newSeed(t)}) // so that what is needed to work at all has been loaded
	load.await(100)
	embeddedTable(t, up).await(t, len(load.finish()))
	resident, err := residentBytes(up.PID())
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("this system has no /proc to read the memory of a process from")
	}
	require.NoError(t, err)
	t.Logf("%d MiB", resident>>20)
	require.Less(t, resident, idleBytesMax)
}

// residentBytes reads how much memory a process occupies.
func residentBytes(pid int) (int, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }() // it was only read
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "VmRSS:"); found {
			var kilobytes int
			_, err := fmt.Sscanf(value, "%d kB", &kilobytes)
			return kilobytes << 10, err
		}
	}
	return 0, errors.New("no VmRSS there")
}
