package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// Comparison is what two versions did, measured in pairs.
type Comparison struct {
	machine
	Base    string     `json:"base"`
	Present string     `json:"present"`
	Cases   []Compared `json:"cases"`
}

// Compared is one case.
type Compared struct {
	Name  string  `json:"name"`
	About string  `json:"about"`
	Pairs []pair  `json:"pairs"`
	Rate  float64 `json:"rate_ratio"` // median of the pairs' ratios, present to base
	CPU   float64 `json:"cpu_ratio"`
	P50   float64 `json:"p50_ratio"`
	P99   float64 `json:"p99_ratio"`

	BaseOfNothing    float64 `json:"base_of_nothing"` // median ratio to the handler that does nothing
	PresentOfNothing float64 `json:"present_of_nothing"`
}

// pair is one round: both versions, and the handler that does nothing.
type pair struct {
	Nothing figures `json:"do_nothing"`
	Base    figures `json:"base"`
	Present figures `json:"present"`
}

// ratio is present to base in one figure.
func ratio(of func(figures) float64) func(pair) float64 {
	return func(p pair) float64 { return of(p.Present) / of(p.Base) }
}

// compare measures a revision and the binary in pairs: A B, B A, A B, …
func (r *rig) compare(ctx context.Context) (*Comparison, error) {
	binary := filepath.Join(r.folder, "base-sendhouse")
	hash, err := repository("").build(ctx, r.base, r.folder, binary, r.log)
	if err != nil {
		return nil, err
	}
	present, err := repository("").git(ctx, "describe", "--always", "--dirty", "--abbrev=12")
	if err != nil {
		return nil, err
	}
	report := &Comparison{machine: r.machine(), Base: hash, Present: present}
	pairs := make([][]pair, len(r.cases))
	for round := range r.rounds {
		for i, w := range r.cases {
			p, err := r.pair(ctx, w, binary, round%2 == 1)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", w.name, round+1, err)
			}
			fmt.Fprintf(os.Stderr, "%s, round %d: %.0f/s doing nothing, base %.0f/s and %.1f µs, present %.0f/s and %.1f µs\n",
				w.name, round+1, p.Nothing.PerSecond, p.Base.PerSecond, p.Base.CPU, p.Present.PerSecond, p.Present.CPU)
			pairs[i] = append(pairs[i], p)
		}
	}
	for i, w := range r.cases {
		report.Cases = append(report.Cases, compared(w, pairs[i]))
	}
	return report, nil
}

// pair measures a case once with each.
func (r *rig) pair(ctx context.Context, w workload, base string, presentFirst bool) (p pair, err error) {
	type one struct {
		binary string
		into   *figures
	}
	first, second := one{base, &p.Base}, one{r.binary, &p.Present}
	if presentFirst {
		first, second = second, first
	}
	if *first.into, err = r.sendhouse(ctx, first.binary, w); err != nil {
		return p, err
	}
	// Between the two, so that it is as near to the one as to the other.
	if p.Nothing, err = r.doNothing(ctx, w, first.into.Highest/2); err != nil {
		return p, err
	}
	*second.into, err = r.sendhouse(ctx, second.binary, w)
	return p, err
}

func compared(w workload, pairs []pair) Compared {
	return Compared{
		Name: w.name, About: w.about, Pairs: pairs,
		Rate: medianOf(pairs, ratio(capacityOf)), CPU: medianOf(pairs, ratio(cpuOf)), P50: medianOf(pairs, ratio(p50Of)), P99: medianOf(pairs, ratio(p99Of)),
		BaseOfNothing:    medianOf(pairs, func(p pair) float64 { return p.Base.PerSecond / p.Nothing.PerSecond }),
		PresentOfNothing: medianOf(pairs, func(p pair) float64 { return p.Present.PerSecond / p.Nothing.PerSecond }),
	}
}

// print writes the comparison for people.
func (c *Comparison) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "base %s, present %s; ratios are present to base\n", c.Base, c.Present)
	for _, one := range c.Cases {
		_, _ = fmt.Fprintf(w, "\n%s: %s\n", one.Name, one.About)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		_, _ = fmt.Fprintln(table, "pair\tdo nothing/s\tbase/s\tpresent/s\tratio\tbase CPU µs\tpresent\tratio\tbase p50, p99 ms\tpresent\t")
		for i, p := range one.Pairs {
			_, _ = fmt.Fprintf(table, "%d\t%.0f\t%.0f\t%.0f\t%.3f\t%.1f\t%.1f\t%.3f\t%.1f, %.1f\t%.1f, %.1f\t\n", i+1, p.Nothing.PerSecond,
				capacityOf(p.Base), capacityOf(p.Present), ratio(capacityOf)(p), p.Base.CPU, p.Present.CPU, ratio(cpuOf)(p),
				p.Base.P50, p.Base.P99, p.Present.P50, p.Present.P99)
		}
		_ = table.Flush() // to the terminal
		_, _ = fmt.Fprintf(w, "Medians of the pairs' ratios: %.3f in messages/s, %.3f in processor time per message, %.2f in p50, %.2f in p99.\n", one.Rate, one.CPU, one.P50, one.P99)
		if medianOf(one.Pairs, func(p pair) float64 { return p.Present.Highest }) > 0 {
			_, _ = fmt.Fprintln(w, "Messages/s are the highest rates; processor time and latencies are those at half of each version's own.")
			continue
		}
		_, _ = fmt.Fprintf(w, "Of the handler that does nothing: base %.2f, present %.2f.\n", one.BaseOfNothing, one.PresentOfNothing)
	}
	_, _ = fmt.Fprintf(w, "\n%s\n", c.machine)
}
