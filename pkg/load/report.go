package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what a run found.
type Report struct {
	Run         string    `json:"run"`
	Seed        uint64    `json:"seed"`
	Target      string    `json:"target"`
	Start       time.Time `json:"start"`
	Loop        string    `json:"loop"` // open or closed
	RateWanted  float64   `json:"rate_wanted,omitempty"`
	Concurrency int       `json:"concurrency"`
	Bulk        int       `json:"bulk,omitempty"`
	Channels    uint32    `json:"channels"`
	Zipf        float64   `json:"zipf,omitempty"`
	PayloadSize string    `json:"payload_size"`
	Duplicates  float64   `json:"duplicates,omitempty"`
	Interrupted bool      `json:"interrupted,omitempty"`

	// Measured, without the warm-up.
	Seconds        float64 `json:"seconds"`
	Sends          uint64  `json:"sends"` // answered 200
	PerSecond      float64 `json:"sends_per_second"`
	DuplicateSends uint64  `json:"duplicate_sends"`
	PayloadBytes   uint64  `json:"payload_bytes"`
	Latency        Latency `json:"latency_ms"` // of a request, from when it was due
	Service        Latency `json:"service_ms"` // of a request, from when it was sent

	// All of the run, warm-up included.
	Answered    uint64            `json:"answered"`
	Requests    uint64            `json:"requests"`
	Retries     uint64            `json:"retries"`
	TryAgain    uint64            `json:"answered_try_again"` // 429 and 503
	Broken      uint64            `json:"requests_broken"`    // no answer, or none that can be read
	Connections uint64            `json:"connections_opened"`
	Refused     map[string]uint64 `json:"refused"` // sends, by status and code
	Unanswered  uint64            `json:"unanswered"`
	NotBegun    uint64            `json:"not_begun"` // due in an open loop, and no connection was free
	Problems    []string          `json:"problems,omitempty"`

	Checks    Checks    `json:"checks"`
	Rows      *RowCheck `json:"rows,omitempty"`
	Generator Generator `json:"generator"`
}

// Latency is a distribution in milliseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Checks are what holding the answers against each other came to.
type Checks struct {
	Violations   uint64   `json:"violations"`
	First        []string `json:"first,omitempty"`
	IDsUnchecked uint64   `json:"ids_unchecked,omitempty"` // came too late to be compared
}

// Generator is what this program itself took.
type Generator struct {
	ProcessorSeconds  float64 `json:"processor_seconds"`
	MicrosecondsASend float64 `json:"processor_us_per_send"`
	MicrosecondsAPost float64 `json:"processor_us_per_request"`
}

// Clean reports whether nothing was wrong with the answers and, if they were read, the rows.
func (r *Report) Clean() bool {
	return r.Checks.Violations == 0 && (r.Rows == nil || r.Rows.Clean())
}

func (r *Run) report(start time.Time, used time.Duration, dials uint64, interrupted bool) *Report {
	t := r.recorder.total()
	out := &Report{
		Run: r.name, Seed: r.cfg.Seed, Target: r.cfg.Target, Start: start.UTC(), Loop: "closed", RateWanted: r.cfg.Rate,
		Concurrency: r.cfg.Concurrency, Bulk: r.cfg.Bulk, Channels: r.cfg.Channels, Zipf: r.cfg.Zipf,
		PayloadSize: r.cfg.PayloadSize.String(), Duplicates: r.cfg.Duplicates, Interrupted: interrupted,
		Sends: t.sends, DuplicateSends: t.duplicates, PayloadBytes: t.payload, Latency: latencyOf(t.latency), Service: latencyOf(t.service),
		Answered: t.all, Requests: t.requests, Retries: t.retries, TryAgain: r.recorder.againCount.Load(), Broken: r.brokenCount.Load(),
		Connections: dials, Refused: r.recorder.refused, Unanswered: r.checker.unknowns, NotBegun: r.pace.missed(time.Now()),
		Problems: slices.Concat(r.recorder.refusals, r.brokenFirst),
		Checks:   Checks{Violations: r.checker.violations, First: r.checker.first, IDsUnchecked: r.checker.unchecked},
	}
	if r.cfg.Rate > 0 {
		out.Loop = "open"
	}
	if out.Seconds = t.last.Sub(r.recorder.from).Seconds(); t.sends > 0 && out.Seconds > 0 {
		out.PerSecond = float64(t.sends) / out.Seconds
	} else {
		out.Seconds = 0
	}
	out.Generator.ProcessorSeconds = used.Seconds()
	if t.all > 0 {
		out.Generator.MicrosecondsASend = used.Seconds() * 1e6 / float64(t.all)
		out.Generator.MicrosecondsAPost = used.Seconds() * 1e6 / float64(t.requests)
	}
	return out
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(quantile float64) float64 { return millis(h.ValueAtQuantile(quantile)) }
	return Latency{Mean: math.Round(h.Mean()) / 1000, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: millis(h.Max())}
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) {
	loop := fmt.Sprintf("closed loop, %d connections", r.Concurrency)
	if r.Loop == "open" {
		loop = fmt.Sprintf("open loop, %.0f sends/s wanted, up to %d at a time", r.RateWanted, r.Concurrency)
	}
	if r.Bulk > 0 {
		loop += fmt.Sprintf(", bulks of %d", r.Bulk)
	}
	spread := "uniform"
	if r.Zipf > 0 {
		spread = fmt.Sprintf("Zipf %g", r.Zipf)
	}
	_, _ = fmt.Fprintf(w, "\n%s\n%s; %d channels (%s), payloads %s, %.0f%% duplicates; run %s, seed %d\n\n",
		r.Target, loop, r.Channels, spread, r.PayloadSize, r.Duplicates*100, r.Run, r.Seed)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "sends\tseconds\tsends/s\tMB/s\tduplicates\t")
	_, _ = fmt.Fprintf(table, "%d\t%.1f\t%.0f\t%.1f\t%d\t\n", r.Sends, r.Seconds, r.PerSecond, float64(r.PayloadBytes)/1e6/max(r.Seconds, 1e-3), r.DuplicateSends)
	_ = table.Flush() // to the terminal
	_, _ = fmt.Fprintln(w)
	_, _ = fmt.Fprintln(table, "ms\tmean\tp50\tp90\tp99\tp99.9\tmax\t")
	for _, row := range []struct {
		name string
		l    Latency
	}{{"latency", r.Latency}, {"service", r.Service}} {
		_, _ = fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", row.name, row.l.Mean, row.l.P50, row.l.P90, row.l.P99, row.l.P999, row.l.Max)
	}
	_ = table.Flush()
	_, _ = fmt.Fprintf(w, "\nWith the warm-up: %d answered, %d requests, %d retries, %d refused for now, %d broken, %d without an answer, %d due and not begun; %d connections opened.\n",
		r.Answered, r.Requests, r.Retries, r.TryAgain, r.Broken, r.Unanswered, r.NotBegun, r.Connections)
	_, _ = fmt.Fprintf(w, "This program used %.1f s of processor time, %.1f µs a request.\n", r.Generator.ProcessorSeconds, r.Generator.MicrosecondsAPost)
	for key, n := range r.Refused {
		_, _ = fmt.Fprintf(w, "Refused: %d with %s\n", n, key)
	}
	for _, text := range r.Problems {
		_, _ = fmt.Fprintf(w, "  %s\n", text)
	}
	r.printChecks(w)
}

func (r *Report) printChecks(w io.Writer) {
	if r.Checks.Violations == 0 {
		_, _ = fmt.Fprintln(w, "Answers: sequences without gaps, IDs unique, repeats answered the same.")
	} else {
		_, _ = fmt.Fprintf(w, "Answers: %d VIOLATIONS\n", r.Checks.Violations)
	}
	for _, text := range r.Checks.First {
		_, _ = fmt.Fprintf(w, "  %s\n", text)
	}
	if r.Rows != nil {
		_, _ = fmt.Fprintln(w, r.Rows)
	}
}

// ErrViolated is wrapped if the checks of a run found something wrong.
var ErrViolated = errors.New("the answers or the rows are not what they must be")

// Err is nil if nothing was wrong.
func (r *Report) Err() error {
	switch {
	case r.Clean():
		return nil
	case r.Rows != nil && r.Rows.CannotTell != "" && r.Checks.Violations == 0:
		return fmt.Errorf("the rows could not be verified: %s", r.Rows.CannotTell)
	default:
		return fmt.Errorf("%w: %d violations in the answers; the report says more", ErrViolated, r.Checks.Violations)
	}
}

// Write writes the table to w and, if a path is given, the report as JSON to that file. With the
// path "-" only the JSON is written, to w.
func (r *Report) Write(w io.Writer, jsonPath string) error {
	if jsonPath != "-" {
		r.Print(w)
		if jsonPath == "" {
			return nil
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	text = append(text, '\n')
	if jsonPath == "-" {
		_, err = w.Write(text)
	} else {
		err = os.WriteFile(jsonPath, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
