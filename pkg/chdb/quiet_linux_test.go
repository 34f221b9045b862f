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
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	b.exec(t, "INSERT INTO t VALUES (1)")

	nice := priorities(t)
	require.NotEmpty(t, nice["MergeMutate"])
	for _, one := range nice["MergeMutate"] {
		require.Equal(t, "5", one)
	}
	self, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	yielding, others := 0, 0
	for _, one := range nice[strings.TrimSpace(string(self))] {
		if one == "5" {
			yielding++
			continue
		}
		require.Equal(t, "0", one)
		others++
	}
	require.Equal(t, 4, yielding, "the threads for inserts, and no other of Go's")
	require.Positive(t, others)
	require.Equal(t, "0", niceness(t, "/proc/self/stat"), "the process")
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
