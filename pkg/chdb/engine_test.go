package chdb_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

func TestOneEngineInAProcess(t *testing.T) {
	t.Parallel()
	_, err := chdb.Open(chdb.Config{DataDir: t.TempDir()})
	require.ErrorIs(t, err, chdb.ErrAlreadyOpen)
}

func TestOpenReportsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := chdb.Open(chdb.Config{MemoryBytesMax: 1, QueriesMax: -1, Settings: map[string]string{"a b": "1"}})
	require.ErrorContains(t, err, "data folder is not set")
	require.ErrorContains(t, err, "memory limit is 1 bytes")
	require.ErrorContains(t, err, "number of queries is negative")
	require.ErrorContains(t, err, `"a b" is no name of a setting`)
	_, err = chdb.Open(chdb.Config{DataDir: "data{1}"})
	require.ErrorContains(t, err, "choose another")
}

func TestOpenWithoutLibrary(t *testing.T) {
	t.Parallel()
	_, err := chdb.Open(chdb.Config{DataDir: t.TempDir(), LibraryPath: filepath.Join(t.TempDir(), "libchdb.so")})
	require.ErrorIs(t, err, chdb.ErrLibrary)
	require.ErrorContains(t, err, "there is no such file")
}

func TestOpenWithWrongLibrary(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "libchdb.so")
	require.NoError(t, os.WriteFile(path, []byte("this is no library"), 0o600))
	output, err := command(t, "open", childSettings{DataDir: t.TempDir(), LibraryPath: path}).Output()
	require.Error(t, err)
	require.Contains(t, string(output), "cannot be loaded")
	require.Contains(t, string(output), "run `make deps`")
}

// A folder that another process holds is an error of one line that says whose it is.
func TestOpenLockedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	holder := serve(t, dir)
	output, err := command(t, "open", childSettings{DataDir: dir}).Output()
	require.Error(t, err)
	require.Regexp(t, `^error: the ClickHouse data folder is in use: \S+: process \d+ holds the lock \S+; stop that process or choose another data folder\n$`,
		string(output))
	holder.stop(t)
	output, err = command(t, "open", childSettings{DataDir: dir}).Output()
	require.NoError(t, err, string(output))
}

func TestOpenUnwritableFolder(t *testing.T) {
	t.Parallel()
	blocked := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o600))
	dirs := []string{filepath.Join(blocked, "data")}
	if os.Geteuid() != 0 { // Root may write anywhere.
		sealed := t.TempDir()
		require.NoError(t, os.Chmod(sealed, 0o500))
		dirs = append(dirs, sealed)
	}
	for _, dir := range dirs {
		output, err := command(t, "open", childSettings{DataDir: dir}).Output()
		require.Error(t, err)
		require.Contains(t, string(output), "error: the ClickHouse data folder cannot be written: "+dir)
	}
}

func TestCloseTwiceAndOpenAgain(t *testing.T) {
	t.Parallel()
	output, err := command(t, "open", childSettings{DataDir: t.TempDir()}).Output()
	require.NoError(t, err, string(output))
}

// Close ends a query that would run for minutes, and the query says that it was ended.
func TestCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	output, err := command(t, "close-busy", childSettings{DataDir: t.TempDir()}).Output()
	require.NoError(t, err, string(output))
}

func TestCloseAndReopenSeesData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := serve(t, dir)
	b := bench{driver: connect(t, first.addr, "default")}
	b.exec(t, "CREATE TABLE kept (a UInt64) ENGINE = MergeTree ORDER BY a")
	b.exec(t, "INSERT INTO kept SELECT number FROM numbers(1000)")
	b.exec(t, "CREATE TABLE gone (a UInt64) ENGINE = MergeTree ORDER BY a")
	b.exec(t, "DROP TABLE gone SYNC") // It would wait for ever if the engine had not found a folder "metadata" when it started.
	first.stop(t)

	second := serve(t, dir)
	b = bench{driver: connect(t, second.addr, "default")}
	require.EqualValues(t, 1000, b.count(t, "SELECT count() FROM kept"))
	require.EqualValues(t, 0, b.count(t, "SELECT count() FROM system.tables WHERE name = 'gone'"))
	second.stop(t)
}

// The Go runtime's signal handlers survive the start of the engine and each connection: without them a nil dereference would kill the
// process and could not be recovered from.
func TestSignalsStayWithGo(t *testing.T) {
	t.Parallel()
	for range 3 {
		require.NoError(t, shared.engine.Ping(t.Context()))
		require.Panics(t, func() {
			var nothing *chdb.Config
			_ = noConfig(nothing).DataDir
		})
	}
	// A signal to the process reaches Go's handler too: SIGURG is what preempts goroutines.
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGURG))
}

//go:noinline
func noConfig(config *chdb.Config) *chdb.Config { return config }

// Idle, the whole process stays well under the 600 MB that `sendhouse up` may use, and gives back what work has taken.
func TestIdleMemory(t *testing.T) {
	t.Parallel()
	served := serve(t, t.TempDir())
	b := bench{driver: connect(t, served.addr, "default")}
	fresh := served.memory(t, "VmRSS")
	t.Logf("fresh: %d MB", fresh>>20)
	require.Less(t, fresh, int64(400<<20))
	b.exec(t, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	for range 3 {
		b.exec(t, "INSERT INTO t SELECT number, repeat(toString(number), 10) FROM numbers(1000000)")
	}
	t.Logf("after work: %d MB", served.memory(t, "VmRSS")>>20)
	require.Eventually(t, func() bool { return served.memory(t, "VmRSS") < 400<<20 }, waitLong, waitStep)
	t.Logf("idle again: %d MB", served.memory(t, "VmRSS")>>20)
	served.stop(t)
}

// Merges and TTLs are the engine's own background work: parts do not pile up, and rows go when they should.
func TestBackgroundMergesAndTTL(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE small (a UInt64) ENGINE = MergeTree ORDER BY a")
	for i := range 60 {
		require.NoError(t, shared.engine.Exec(t.Context(), "INSERT INTO "+b.database+".small SELECT "+string(rune('0'+i%10))))
	}
	const parts = "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() AND table = 'small'"
	require.Eventually(t, func() bool { return b.count(t, parts) <= 12 }, waitLong, waitStep)
	require.EqualValues(t, 60, b.count(t, "SELECT count() FROM small"))

	b.exec(t, "CREATE TABLE brief (a UInt64, until DateTime) ENGINE = MergeTree ORDER BY a TTL until SETTINGS merge_with_ttl_timeout = 1")
	b.exec(t, "INSERT INTO brief SELECT number, number = 0 ? now() + 3600 : now() + 1 FROM numbers(100)")
	require.Eventually(t, func() bool { return b.count(t, "SELECT count() FROM brief") == 1 }, waitLong, waitStep)
}
