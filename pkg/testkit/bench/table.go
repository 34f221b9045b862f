package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// machine is where and how a run measured.
type machine struct {
	Cores           int     `json:"cores"`
	GoVersion       string  `json:"go_version"`
	Defined         int     `json:"defined"` // channels with permissions of their own
	Rounds          int     `json:"rounds"`
	DurationSeconds float64 `json:"duration_seconds"`
}

func (r *rig) machine() machine {
	return machine{Cores: runtime.NumCPU(), GoVersion: runtime.Version(), Defined: r.defined, Rounds: r.rounds, DurationSeconds: r.duration.Seconds()}
}

func (m machine) String() string {
	return fmt.Sprintf("%d cores, %s, %d channels with permissions of their own; medians of %d rounds of %s; every commit synced to disk, load generator on the same cores.\n"+
		"CPU is the processor time of all processes but the load generator, from the first send to the row of the last, per message.",
		m.Cores, m.GoVersion, m.Defined, m.Rounds, time.Duration(m.DurationSeconds*float64(time.Second)))
}

// Report is what a run of the benchmark found.
type Report struct {
	machine
	Results []Result `json:"results"`
	Splits  []Split  `json:"splits,omitempty"`
}

// Result is one case: all its rounds, and the medians of their ratios.
type Result struct {
	Name      string    `json:"name"`
	About     string    `json:"about"`
	Nothing   []figures `json:"do_nothing"`
	Sendhouse []figures `json:"sendhouse"`
	Ratio     float64   `json:"ratio"`              // to the handler that does nothing, in messages to requests
	Against   string    `json:"against,omitempty"`  // the case that this one is held against
	OfOther   float64   `json:"of_other,omitempty"` // ratio to that case's rate in the same round
}

// table measures all cases, round by round.
func (r *rig) table(ctx context.Context) (*Report, error) {
	report := &Report{machine: r.machine(), Results: make([]Result, len(r.cases))}
	for round := range r.rounds {
		for i, w := range r.cases {
			ours, nothing, err := r.both(ctx, w, round%2 == 1)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", w.name, round+1, err)
			}
			fmt.Fprintf(os.Stderr, "%s, round %d: %.0f/s doing nothing, %.0f messages/s\n", w.name, round+1, nothing.PerSecond, ours.PerSecond)
			result := &report.Results[i]
			result.Name, result.About, result.Against = w.name, w.about, w.against
			result.Nothing, result.Sendhouse = append(result.Nothing, nothing), append(result.Sendhouse, ours)
		}
	}
	report.relate()
	if !r.options.splits {
		return report, nil
	}
	var err error
	report.Splits, err = r.splits(ctx)
	return report, err
}

// both measures Sendhouse and the handler that does nothing. Which rate is half of the
// highest must be known first.
func (r *rig) both(ctx context.Context, w workload, nothingFirst bool) (ours, nothing figures, err error) {
	nothingFirst = nothingFirst && !w.half
	if nothingFirst {
		if nothing, err = r.doNothing(ctx, w, 0); err != nil {
			return ours, nothing, err
		}
	}
	if ours, err = r.sendhouse(ctx, r.binary, w); err == nil && !nothingFirst {
		nothing, err = r.doNothing(ctx, w, ours.Highest/2)
	}
	return ours, nothing, err
}

// relate works out the ratios: of each round first, then their median.
func (r *Report) relate() {
	byName := make(map[string]*Result, len(r.Results))
	for i := range r.Results {
		byName[r.Results[i].Name] = &r.Results[i]
	}
	for i := range r.Results {
		result := &r.Results[i]
		result.Ratio = medianRatio(result.Sendhouse, result.Nothing)
		if other := byName[result.Against]; other != nil {
			result.OfOther = medianRatio(result.Sendhouse, other.Sendhouse)
		}
	}
}

// medianRatio of the rates of rounds, one by one.
func medianRatio(of, to []figures) float64 {
	ratios := make([]float64, len(of))
	for i := range of {
		ratios[i] = of[i].PerSecond / to[i].PerSecond
	}
	return median(ratios)
}

// capacityOf is the rate where as much as possible was sent.
func capacityOf(f figures) float64 { return cmp.Or(f.Highest, f.PerSecond) }

// print writes the report for people.
func (r *Report) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "case\tdo nothing/s\tmessages/s\tratio\tof other\tp50 ms\tp99 ms\tdo nothing p99\tCPU µs\tgenerator µs\tidle, peak MiB\tnot 200\t")
	for _, result := range r.Results {
		other, refused := "", 0
		if result.OfOther > 0 {
			other = fmt.Sprintf("%.2f of %s", result.OfOther, result.Against)
		}
		for _, f := range result.Sendhouse {
			refused += f.Refused + f.Broken
		}
		ours, nothing := result.Sendhouse, result.Nothing
		ofNothing := fmt.Sprintf("%.2f", result.Ratio)
		if medianOf(ours, highestOf) > 0 {
			ofNothing = "" // both were sent the same
		}
		_, _ = fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%s\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f, %.0f\t%d\t\n", result.Name,
			medianOf(nothing, rateOf), medianOf(ours, rateOf), ofNothing, other, medianOf(ours, p50Of), medianOf(ours, p99Of), medianOf(nothing, p99Of),
			medianOf(ours, cpuOf), medianOf(ours, func(f figures) float64 { return f.Generator }),
			medianOf(ours, func(f figures) float64 { return float64(f.IdleMiB) }), medianOf(ours, func(f figures) float64 { return float64(f.PeakMiB) }), refused)
	}
	_ = table.Flush() // to the terminal
	for _, result := range r.Results {
		_, _ = fmt.Fprintf(w, "%s: %s\n", result.Name, result.About)
		if highest := medianOf(result.Sendhouse, highestOf); highest > 0 {
			_, _ = fmt.Fprintf(w, "%s: the highest rate was %.0f messages/s\n", result.Name, highest)
		}
		result.printParts(w)
	}
	_, _ = fmt.Fprintln(w, r.machine)
	for _, s := range r.Splits {
		s.print(w)
	}
}

// printParts says what the processes took, and how many pieces the load was cut into.
func (r *Result) printParts(w io.Writer) {
	by := func(of func(figures) map[string]float64) string {
		processes := slices.Sorted(maps.Keys(of(r.Sendhouse[0])))
		for i, name := range processes {
			processes[i] = fmt.Sprintf("%s %.1f", name, medianOf(r.Sendhouse, func(f figures) float64 { return of(f)[name] }))
		}
		return strings.Join(processes, ", ")
	}
	if len(r.Sendhouse[0].SwitchesBy) == 0 {
		return
	}
	if len(r.Sendhouse[0].CPUBy) > 1 {
		_, _ = fmt.Fprintf(w, "%s: CPU µs by process: %s\n", r.Name, by(func(f figures) map[string]float64 { return f.CPUBy }))
	}
	_, _ = fmt.Fprintf(w, "%s: context switches per message: %s\n", r.Name, by(func(f figures) map[string]float64 { return f.SwitchesBy }))
	piece := func(of func(Pieces) float64) float64 {
		return medianOf(r.Sendhouse, func(f figures) float64 { return of(f.Pieces) })
	}
	_, _ = fmt.Fprintf(w, "%s: %.0f group commits/s of %.1f sends, acknowledged after %.2f ms; %.1f inserts/s of %.0f rows\n", r.Name,
		piece(func(p Pieces) float64 { return p.Commits }), piece(func(p Pieces) float64 { return p.Sends }), piece(func(p Pieces) float64 { return p.AckMS }),
		piece(func(p Pieces) float64 { return p.Inserts }), piece(func(p Pieces) float64 { return p.InsertRow }))
}

// median of a list that is not empty; between the two in the middle where its length is even.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[half-1] + sorted[half]) / 2
	}
	return sorted[half]
}

// medianOf is the median of what value gives for each.
func medianOf[T any](all []T, value func(T) float64) float64 {
	values := make([]float64, len(all))
	for i := range all {
		values[i] = value(all[i])
	}
	return median(values)
}

func rateOf(f figures) float64    { return f.PerSecond }
func p50Of(f figures) float64     { return f.P50 }
func p99Of(f figures) float64     { return f.P99 }
func cpuOf(f figures) float64     { return f.CPU }
func highestOf(f figures) float64 { return f.Highest }
