package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseWRK(t *testing.T) {
	t.Parallel()
	f, err := parseWRK("Running 2s test @ http://127.0.0.1:1\n  1 threads and 64 connections\nRESULT 40000 1000 3 2.000 3.250 12.500\n")
	require.NoError(t, err)
	require.Equal(t, figures{Messages: 39_000, Rows: 39_000, Refused: 1000, Broken: 3, Seconds: 2, PerSecond: 19_500, P50: 3.25, P99: 12.5}, f)
	for _, out := range []string{"", "RESULT 1 2 3", "RESULT 0 0 64 2.000 0.000 0.000", "RESULT 50 50 0 2.000 1.000 1.000"} {
		_, err := parseWRK(out)
		require.Error(t, err, out)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 3, median([]float64{3}), 0)
	require.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 0)
	require.InDelta(t, 2, median([]float64{9, 2, 1}), 0)
}

// What counts is the median of the ratios of pairs, and not the ratio of the medians: a pair that a busy
// neighbour slowed down is still a pair.
func TestComparedByPairs(t *testing.T) {
	t.Parallel()
	of := func(rate, cpu float64) figures { return figures{PerSecond: rate, CPU: cpu, P50: 1, P99: 2} }
	pairs := []pair{
		{Nothing: of(200, 1), Base: of(100, 20), Present: of(110, 10)},
		{Nothing: of(20, 1), Base: of(10, 40), Present: of(12, 30)},
		{Nothing: of(100, 1), Base: of(50, 30), Present: of(65, 30)},
	}
	c := compared(workload{name: "64"}, pairs)
	require.InDelta(t, 1.2, c.Rate, 1e-9)
	require.InDelta(t, 0.75, c.CPU, 1e-9)
	require.InDelta(t, 0.5, c.BaseOfNothing, 1e-9)
	require.InDelta(t, 0.6, c.PresentOfNothing, 1e-9)

	// At half of the highest rate, what is compared is the highest rate.
	pairs = []pair{{Nothing: of(50, 1), Base: figures{PerSecond: 50, Highest: 100}, Present: figures{PerSecond: 60, Highest: 150}}}
	half := compared(workload{name: "half"}, pairs)
	require.InDelta(t, 1.5, half.Rate, 1e-9)
	var out bytes.Buffer
	(&Comparison{Base: "abc", Present: "def", Cases: []Compared{c, half}}).print(&out)
	require.Contains(t, out.String(), "1.200 in messages/s, 0.750 in processor time")
	require.Equal(t, 1, strings.Count(out.String(), "Of the handler that does nothing: base 0.50, present 0.60."), out.String())
	require.Contains(t, out.String(), "half of each version's own")
}

func TestCasesHeldAgainstEachOther(t *testing.T) {
	t.Parallel()
	of := func(rates ...float64) (out []figures) {
		for _, rate := range rates {
			out = append(out, figures{PerSecond: rate})
		}
		return out
	}
	report := Report{Results: []Result{
		{Name: "256", Nothing: of(200, 100, 100), Sendhouse: of(100, 40, 30)},
		{Name: "hot", Against: "256", Nothing: of(100, 100, 100), Sendhouse: of(90, 20, 30)},
		{Name: "million", Against: "not measured", Nothing: of(10, 10, 10), Sendhouse: of(1, 2, 3)},
	}}
	report.relate()
	require.InDelta(t, 0.4, report.Results[0].Ratio, 1e-9)
	require.InDelta(t, 0.9, report.Results[1].OfOther, 1e-9)
	require.Zero(t, report.Results[2].OfOther)
	var out bytes.Buffer
	report.print(&out)
	require.Contains(t, out.String(), "0.90 of 256")
}

func TestChooseCases(t *testing.T) {
	t.Parallel()
	all, err := chooseCases("all", 500)
	require.NoError(t, err)
	require.Len(t, all, len(workloads()))
	names := make(map[string]bool)
	for _, w := range all {
		require.False(t, names[w.name], w.name)
		names[w.name] = true
		require.NotEmpty(t, w.about)
		require.Positive(t, w.channels)
		require.Positive(t, w.connections)
		require.True(t, w.against == "" || names[w.against], "%s is measured after %s", w.against, w.name)
	}
	some, err := chooseCases("hot, 64", 500)
	require.NoError(t, err)
	require.Len(t, some, 2)
	require.Equal(t, "64", some[0].name)
	require.Equal(t, 500, some[0].channels)
	require.Equal(t, 1, some[1].channels)
	_, err = chooseCases("64,cold", 500)
	require.ErrorContains(t, err, `"cold"`)
}

func TestFlags(t *testing.T) {
	t.Parallel()
	o, err := parse([]string{"-base", "main"})
	require.NoError(t, err)
	require.Len(t, o.cases, 2, "a comparison is of few cases unless told otherwise")
	o, err = parse(nil)
	require.NoError(t, err)
	require.Len(t, o.cases, len(workloads()))
	for _, bad := range [][]string{{"-rounds", "0"}, {"-duration", "1500ms"}, {"-duration", "0s"}, {"-cases", "x"}, {"-defined", "20000"}, {"main"}} {
		_, err := parse(bad)
		require.Error(t, err, bad)
	}
}

// A revision is built by its own Makefile, in a worktree that is gone afterwards, whether that went well or not.
func TestBuildRevision(t *testing.T) {
	t.Parallel()
	dir, folder := t.TempDir(), t.TempDir()
	inRepository := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	write := func(makefile string) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "Makefile"), []byte(makefile), 0o600))
		inRepository("add", ".")
		inRepository("commit", "--quiet", "-m", "x")
	}
	inRepository("init", "--quiet", "--initial-branch=main")
	write("deps:\nbuild:\n\tmkdir bin && echo first >bin/sendhouse\n")
	write("deps:\nbuild:\n\texit 1\n")
	log, err := os.Create(filepath.Join(folder, "log"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	binary := filepath.Join(folder, "binary")

	hash, err := repository(dir).build(t.Context(), "main~1", folder, binary, log)
	require.NoError(t, err)
	text, err := os.ReadFile(binary)
	require.NoError(t, err)
	require.Equal(t, "first\n", string(text))
	require.Contains(t, inRepository("rev-parse", "main~1"), hash)

	_, err = repository(dir).build(t.Context(), "main", folder, binary+"2", log)
	require.ErrorContains(t, err, "build")
	// Told to stop in the middle, it leaves nothing behind either: neither a worktree nor a process.
	fifo := filepath.Join(folder, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	write("deps:\nbuild:\n\techo runs >" + fifo + "; cat " + fifo + "\n")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		if _, err := os.ReadFile(fifo); err != nil { // returns when make has written to it
			t.Errorf("wait for make: %v", err)
		}
	}()
	_, err = repository(dir).build(ctx, "main", folder, binary+"3", log)
	require.ErrorIs(t, err, context.Canceled)

	_, err = repository(dir).build(t.Context(), "nowhere", folder, binary+"4", log)
	require.ErrorContains(t, err, "no such revision")
	require.NoDirExists(t, filepath.Join(folder, "base"))
	require.Len(t, bytes.Split(bytes.TrimSpace([]byte(inRepository("worktree", "list"))), []byte("\n")), 1)
}
