package chdb_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What merges and inserts yields to the rest of the process, and the rest does not yield: neither the process as tools show it, nor Go's
// threads, nor what reads.
func TestMergesAndInsertsYield(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	b.exec(t, "INSERT INTO t VALUES (1)")

	nice := priorities(t)
	// One of Go's that ran OPTIMIZE for another test may have the name as well.
	require.Equal(t, 2, count(nice["MergeMutate"], "5"), "the engine's threads that merge: %v", nice)
	self, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	ours := nice[strings.TrimSpace(string(self))]
	require.Equal(t, 4, count(ours, "5"), "the threads for inserts, and no other of Go's: %v", nice)
	require.Equal(t, len(ours)-4, count(ours, "0"))
	require.Greater(t, len(ours), 4)
	require.Equal(t, "0", niceness(t, "/proc/self/stat"), "the process")
}

func count(values []string, wanted string) (n int) {
	for _, value := range values {
		if value == wanted {
			n++
		}
	}
	return n
}

// priorities are the nice values of this process's threads, by their names.
func priorities(t *testing.T) map[string][]string {
	threads, err := filepath.Glob("/proc/self/task/*")
	require.NoError(t, err)
	nice := make(map[string][]string)
	for _, thread := range threads {
		name, err := os.ReadFile(filepath.Join(thread, "comm"))
		if os.IsNotExist(err) {
			continue // It has ended.
		}
		require.NoError(t, err)
		key := strings.TrimSpace(string(name))
		nice[key] = append(nice[key], niceness(t, filepath.Join(thread, "stat")))
	}
	return nice
}

// niceness is the 19th field of a stat file, proc_pid_stat(5). The second is a name in brackets, which may hold anything.
func niceness(t *testing.T, path string) string {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))[16]
}
