package main

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const fields = " S 1 2 3 0 -1 4194560 5 0 0 0 250 125 0 0 20 0 9 0 4711 0 0"
	for text, want := range map[string]string{
		"42 (sendhouse)" + fields:       "sendhouse",
		"42 (a) (b c)" + fields:         "a) (b c",
		"42 ()" + fields + " 1 2 3\n\n": "",
	} {
		name, seconds, err := parseStat(text)
		require.NoError(t, err)
		require.Equal(t, want, name)
		require.InDelta(t, 3.75, seconds, 1e-9)
	}
	for _, text := range []string{"", "42 sendhouse S", "42 (sendhouse) S 1 2", "42 )( S 1", "42 (x) S 1 2 3 0 -1 1 5 0 0 0 a 125 0"} {
		_, _, err := parseStat(text)
		require.Error(t, err, text)
	}
}

func TestParseMemory(t *testing.T) {
	t.Parallel()
	now, most := parseMemory("Name:\tsendhouse\nVmPeak:\t 9999999 kB\nVmHWM:\t  716800 kB\nVmRSS:\t  250880 kB\nThreads:\t9\n")
	require.Equal(t, 245, now)
	require.Equal(t, 700, most)
}

func TestParseProgram(t *testing.T) {
	t.Parallel()
	const smaps = `00400000-01c00000 r-xp 00000000 08:01 77  /bin/sendhouse
Rss:               30720 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01c00000-01d00000 rw-p 01800000 08:01 77  /bin/sendhouse
Rss:                3072 kB
Anonymous:          2048 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Rss:               40960 kB
Anonymous:         40960 kB
`
	require.Equal(t, 31, parseProgram(smaps, "/bin/sendhouse"))
	require.Zero(t, parseProgram(smaps, "/bin/other"))
}

// A process and its child are a family.
func TestFamily(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	child := exec.CommandContext(t.Context(), "cat")
	input, err := child.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	pids, err := testkit.ProcessTree(os.Getpid())
	require.NoError(t, err)
	require.Contains(t, pids, os.Getpid())
	require.Contains(t, pids, child.Process.Pid)
	_, err = programMiB(child.Process.Pid)
	require.NoError(t, err)
	require.NoError(t, input.Close())
	require.NoError(t, child.Wait())
}

// This process can be looked at, and its threads add up to about what it has used.
func TestOwnProcessorTime(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	before, err := cpuSeconds(os.Getpid())
	require.NoError(t, err)
	for after := before; after < before+0.1; {
		after, err = cpuSeconds(os.Getpid())
		require.NoError(t, err)
	}
	all, err := threads(os.Getpid())
	require.NoError(t, err)
	var sum float64
	for _, one := range all {
		require.NotEmpty(t, one.name)
		sum += one.seconds
	}
	require.Positive(t, sum)
	now, most, err := memoryMiB(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, now)
	require.GreaterOrEqual(t, most, now)
}
