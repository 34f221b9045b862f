package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/google/pprof/profile"
)

// tailTime is how long a profile continues after the load: until the last rows are there, usually.
const tailTime = 2 * time.Second

// Split is where the processor time of a case goes, in µs per message.
type Split struct {
	Name    string  `json:"name"`
	About   string  `json:"about"`
	Figures figures `json:"figures"` // with the profiler on
	Stages  []Stage `json:"stages"`
	Threads []Stage `json:"threads"` // of them, those that have a name of their own and have not ended

	// Sampled is how much of the processor time, as the kernel counts it, the profile saw. Stages share out the kernel's.
	Sampled float64 `json:"sampled"`
}

// Stage is one part.
type Stage struct {
	Name   string  `json:"name"`
	CPU    float64 `json:"cpu"`
	Kernel float64 `json:"kernel,omitempty"` // of it in system calls
}

// splits profiles each case once, after the rounds.
func (r *rig) splits(ctx context.Context) ([]Split, error) {
	var out []Split
	for _, w := range r.cases {
		if w.apart {
			continue // its processes are parts already
		}
		fmt.Fprintf(os.Stderr, "%s: profile\n", w.name)
		s, err := r.split(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("%s: profile: %w", w.name, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (r *rig) split(ctx context.Context, w workload) (out Split, err error) {
	err = r.withDeployment(ctx, r.binary, w, func(d *deployment) error {
		up := d.servers[0]
		rate, lasts := 0.0, r.duration
		if w.half {
			best, err := generate(ctx, w, d.urls, r.folder, r.duration, 0, true)
			if err != nil {
				return err
			}
			d.rows += best.Rows
			rate, lasts = best.PerSecond/2, warmUp+r.duration
		}
		if err := d.awaitRows(ctx); err != nil {
			return err
		}
		before, err := familyThreads(up.pid())
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // if the load fails, the profile is not waited for
		type result struct {
			text []byte
			err  error
		}
		done := make(chan result, 1)
		go func() { // ends with ctx at the latest
			text, err := get(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", d.admin, int((lasts+tailTime).Seconds())))
			done <- result{text, err}
		}()
		var profiled result
		f, err := d.measure(ctx, func() (figures, error) { return generate(ctx, w, d.urls, r.folder, r.duration, rate, true) })
		if err != nil {
			return err
		}
		if profiled = <-done; profiled.err != nil {
			return profiled.err
		}
		after, err := familyThreads(up.pid())
		if err != nil {
			return err
		}
		samples, err := profile.ParseData(profiled.text)
		if err != nil {
			return err
		}
		name, err := commandName(up.pid())
		if err != nil {
			return err
		}
		out = splitUp(f, stagesOf(samples), spent(before, after), name)
		out.Name, out.About = w.name, w.about
		return nil
	})
	return out, err
}

// spent is the processor time of threads between two looks, by their last names.
func spent(before, after map[string]thread) map[string]float64 {
	out := make(map[string]float64)
	for id, t := range after {
		out[t.name] += t.seconds - before[id].seconds
	}
	return out
}

// splitUp shares out the processor time of a process as its profile did. ClickHouse
// names some of its threads, such as those that merge; Go's have the name of the
// program.
func splitUp(f figures, samples map[string]sampled, threads map[string]float64, program string) Split {
	out := Split{Figures: f}
	for name, seconds := range threads {
		if name != program && seconds > 0 {
			out.Threads = append(out.Threads, Stage{Name: name, CPU: micros(seconds, f.Messages)})
		}
	}
	var seconds float64
	for _, s := range samples {
		seconds += s.all
	}
	for stage, s := range samples {
		out.Stages = append(out.Stages, Stage{Name: stage, CPU: f.CPU * s.all / seconds, Kernel: f.CPU * s.kernel / seconds})
	}
	byCPU := func(a, b Stage) int { return cmp.Or(cmp.Compare(b.CPU, a.CPU), cmp.Compare(a.Name, b.Name)) }
	slices.SortFunc(out.Stages, byCPU)
	slices.SortFunc(out.Threads, byCPU)
	out.Sampled = micros(seconds, f.Messages) / f.CPU
	return out
}

// commandName is what the kernel calls a process.
func commandName(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "", err
	}
	name := string(bytes.TrimSpace(text))
	if name == "" {
		return "", errors.New("a process without a name")
	}
	return name, nil
}

// print writes the split for people. Parts below a hundredth of the whole are added up.
func (s Split) print(w io.Writer) {
	var total, kernel float64
	for _, stage := range s.Stages {
		total += stage.CPU
		kernel += stage.Kernel
	}
	_, _ = fmt.Fprintf(w, "\n%s: %s; %.0f messages/s\n", s.Name, s.About, s.Figures.PerSecond)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "stage\tCPU µs per message\tof it in system calls\tshare")
	row := func(stage Stage) {
		_, _ = fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.0f%%\n", stage.Name, stage.CPU, stage.Kernel, 100*stage.CPU/total)
	}
	rest := Stage{Name: "others"}
	for _, stage := range s.Stages {
		if stage.CPU < total/100 {
			rest.CPU += stage.CPU
			rest.Kernel += stage.Kernel
			continue
		}
		row(stage)
		if stage.Name == stageEngine {
			for _, thread := range s.Threads {
				if thread.CPU >= total/100 {
					_, _ = fmt.Fprintf(table, "  of it %s\t  %.2f\t\t\n", thread.Name, thread.CPU)
				}
			}
		}
	}
	row(rest)
	row(Stage{Name: "all", CPU: total, Kernel: kernel})
	_ = table.Flush() // to the terminal
	_, _ = fmt.Fprintf(w, "The profile saw %.0f%% of what the kernel counted; its shares of that are given.\n", 100*s.Sampled)
}
