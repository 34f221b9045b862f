// Command bench measures a whole Sendhouse against a chi handler that does
// nothing, in one run on one machine: each round measures both, and what counts is
// the ratio, since machines differ and drift. With -base it measures two versions
// of Sendhouse in pairs instead.
//
// Everything runs as a stranger would run it: `sendhouse up` with its defaults,
// every group commit synced to disk, rows landing in ClickHouse meanwhile, and the
// load generator on the same cores. Each measurement starts it again, on an empty
// folder.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type options struct {
	binary   string
	base     string // revision to compare with; empty for none
	cases    []workload
	rounds   int
	duration time.Duration
	defined  int
	dir      string
	jsonPath string
	splits   bool

	// What the program is when it has started itself.
	serveNothing string
	serveEngine  string
	engineDir    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// reporter is what a run found.
type reporter interface{ print(w io.Writer) }

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	switch {
	case err != nil:
		return err
	case o.serveNothing != "":
		return serveNothing(ctx, o.serveNothing)
	case o.serveEngine != "":
		return serveEngine(ctx, o.serveEngine, o.engineDir)
	}
	var report reporter
	err = withRig(ctx, o, func(r *rig) (err error) {
		if o.base != "" {
			report, err = r.compare(ctx)
		} else {
			report, err = r.table(ctx)
		}
		return err
	})
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
	var cases string
	var channels int
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.binary, "binary", "bin/sendhouse", "the binary to measure")
	flags.StringVar(&o.base, "base", "", "a revision: measure it and the binary in pairs")
	flags.StringVar(&cases, "cases", "", "what to measure, separated by commas; all, or nothing, for everything (with -base: for 64,256):\n"+caseList())
	flags.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	flags.DurationVar(&o.duration, "duration", 10*time.Second, "time of each measurement, in whole seconds")
	flags.IntVar(&channels, "channels", 10_000, "channels that the sends are spread over, where a case does not say otherwise")
	flags.IntVar(&o.defined, "defined", 0, "how many of the channels have permissions of their own")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "folder for the data of what is measured; on a real disk, or syncing to it costs nothing")
	flags.StringVar(&o.jsonPath, "json", "", "file to write the figures to")
	flags.BoolVar(&o.splits, "split", false, "after the rounds, profile each case once and say where the processor time goes")
	flags.StringVar(&o.serveNothing, "serve-nothing", "", "serve the do-nothing handler at this address (used by the program itself)")
	flags.StringVar(&o.serveEngine, "serve-engine", "", "serve the embedded ClickHouse at this address (used by the program itself)")
	flags.StringVar(&o.engineDir, "engine-dir", "", "folder of the embedded ClickHouse")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if cases == "" && o.base != "" {
		cases = "64,256"
	}
	if o.rounds < 1 || o.duration < time.Second || o.duration%time.Second != 0 || channels < 1 || o.defined < 0 || o.defined > channels {
		return o, errors.New("-rounds and -channels must be at least 1, -duration whole seconds and at least 1s, -defined at most -channels")
	}
	var err error
	o.cases, err = chooseCases(cases, channels)
	if flags.NArg() > 0 {
		err = errors.Join(err, fmt.Errorf("unexpected: %s", strings.Join(flags.Args(), " ")))
	}
	return o, err
}
