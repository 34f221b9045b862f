// Command bench measures a whole Sendhouse against a chi handler that does
// nothing, with wrk, in one run on one machine: each round measures both, and what
// counts is the ratio, since machines differ and drift.
//
// Everything runs as a stranger would run it: `sendhouse up` with its defaults,
// every group commit synced to disk, rows landing in ClickHouse meanwhile, and the
// load generator on the same cores.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	binary      string
	connections []int
	rounds      int
	duration    time.Duration
	channels    int
	defined     int
	jsonPath    string
	baseline    string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.baseline != "" {
		return serveBaseline(o.baseline)
	}
	report, err := measure(o)
	if err != nil {
		return err
	}
	report.print(os.Stdout)
	if o.jsonPath == "" {
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.jsonPath, append(text, '\n'), 0o600)
}

func parse(args []string) (options, error) {
	var o options
	var connections string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.binary, "binary", "bin/sendhouse", "the binary to measure")
	flags.StringVar(&connections, "connections", "64,256", "numbers of connections")
	flags.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	flags.DurationVar(&o.duration, "duration", 10*time.Second, "time of each measurement, at least a second")
	flags.IntVar(&o.channels, "channels", 10_000, "channels that the sends are spread over")
	flags.IntVar(&o.defined, "defined", 0, "how many of the channels have permissions of their own")
	flags.StringVar(&o.jsonPath, "json", "", "file to write the figures to")
	flags.StringVar(&o.baseline, "serve-baseline", "", "serve the do-nothing handler at this address (used by the program itself)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for field := range strings.SplitSeq(connections, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 1 {
			return o, fmt.Errorf("-connections %q: must be positive numbers separated by commas", connections)
		}
		o.connections = append(o.connections, n)
	}
	if o.rounds < 1 || o.duration < time.Second || o.channels < 1 || o.defined < 0 || o.defined > o.channels {
		return o, errors.New("-rounds and -channels must be at least 1, -duration at least 1s, -defined at most -channels")
	}
	return o, nil
}

// median of a list that is not empty.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
