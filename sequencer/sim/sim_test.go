package sim

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/sequencer/runner"
)

var (
	seedFlag = flag.Uint64("sim.seed", envUint("SIM_SEED", 0), "seed of the first run; 0 draws one")
	runsFlag = flag.Uint64("sim.runs", envUint("SIM_RUNS", 300), "number of runs, of consecutive seeds")
)

func envUint(name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%s=%q: not a number", name, text))
	}
	return n
}

// The simulation holds for -sim.runs seeds, by default from one that the clock
// gives; it is printed.
func TestSimulation(t *testing.T) {
	t.Parallel()
	seed, runs := *seedFlag, *runsFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1e12
	}
	t.Logf("seeds %d to %d", seed, seed+runs-1)
	shards := uint64(runtime.GOMAXPROCS(0))
	for shard := range shards {
		t.Run(strconv.FormatUint(shard, 10), func(t *testing.T) {
			t.Parallel()
			metrics := runner.NewMetrics(prometheus.NewRegistry()).Partition(0)
			var sum Result
			begun := time.Now()
			for n := shard; n < runs; n += shards {
				result := mustRun(t, seed+n, metrics)
				sum.add(result)
			}
			t.Logf("%d runs in %s: %+v", (runs-shard+shards-1)/shards, time.Since(begun).Round(time.Millisecond), sum)
		})
	}
}

func (r *Result) add(other Result) {
	r.Steps += other.Steps
	r.Records += other.Records
	r.Messages += other.Messages
	r.Checkpoints += other.Checkpoints
	r.PowerLosses += other.PowerLosses
	r.Recoveries += other.Recoveries
	if other.Refused {
		r.RefusedRuns++
	}
}

func mustRun(t *testing.T, seed uint64, metrics *runner.PartitionMetrics) Result {
	t.Helper()
	options := Options{Seed: seed, Metrics: metrics}
	if os.Getenv("SIM_TRACE") != "" {
		options.Trace = os.Stdout
	}
	result, err := Run(options)
	require.NoError(t, err)
	return result
}

// The same seed produces the same run, to the last event, even if it fails.
func TestSameSeedSameRun(t *testing.T) {
	t.Parallel()
	wrong := deliberateBugs()["messages are appended without the expected sequence"]
	failed := 0
	for seed := uint64(1); seed <= 20; seed++ {
		first, err1 := Run(Options{Seed: seed})
		second, err2 := Run(Options{Seed: seed})
		require.NoError(t, errors.Join(err1, err2))
		require.Equal(t, first, second, "seed %d", seed)

		first, err1 = run(Options{Seed: seed}, wrong)
		second, err2 = run(Options{Seed: seed}, wrong)
		require.Equal(t, first, second, "seed %d", seed)
		require.Equal(t, err1, err2, "seed %d", seed)
		if err1 != nil {
			failed++
			require.ErrorContains(t, err1, fmt.Sprintf("make sim SEED=%d RUNS=1", seed))
		}
	}
	require.NotZero(t, failed)
}

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400) // each recovery allocates the fold's tables; they are short-lived
	os.Exit(m.Run())
}
