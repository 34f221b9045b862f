package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"
)

// rowsTimeout bounds the wait, after the load, for the last rows.
const rowsTimeout = 60 * time.Second

// Report is what a run of the benchmark found.
type Report struct {
	Cores       int      `json:"cores"`
	GoVersion   string   `json:"go_version"`
	Channels    int      `json:"channels"`
	Defined     int      `json:"defined"` // channels with permissions of their own
	Rounds      int      `json:"rounds"`
	Results     []Result `json:"results"`
	Answered    int      `json:"answered"` // sends answered 200
	Rows        int      `json:"rows"`     // in ClickHouse, in the end
	IdleMiB     int      `json:"idle_mib"`
	ResidentMiB int      `json:"resident_mib"` // after the load
	PeakMiB     int      `json:"peak_mib"`
}

// Result is one number of connections: medians over the rounds.
type Result struct {
	Connections int       `json:"connections"`
	Nothing     []figures `json:"do_nothing"`
	Sendhouse   []figures `json:"sendhouse"`
	Ratio       float64   `json:"ratio"` // median of the rounds' ratios
}

func measure(o options) (_ *Report, err error) {
	dir, err := os.MkdirTemp("", "sendhouse-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}()
	log, err := os.Create(filepath.Join(dir, "servers.log"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	nothing, err := startNothing(log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, nothing.stop()) }()
	up, clickHouse, err := startUp(o, dir, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, up.stop()) }()

	if err := define(o, up.url); err != nil {
		return nil, err
	}
	report := &Report{Cores: runtime.NumCPU(), GoVersion: runtime.Version(), Channels: o.channels, Defined: o.defined, Rounds: o.rounds}
	if report.IdleMiB, _, err = up.memoryMiB(); err != nil {
		return nil, err
	}
	for _, connections := range o.connections {
		result, err := compare(o, dir, connections, nothing, up)
		if err != nil {
			return nil, err
		}
		for _, f := range result.Sendhouse {
			report.Answered += f.Requests - f.Refused
		}
		report.Results = append(report.Results, result)
	}
	if report.Rows, err = awaitRows(clickHouse, report.Answered); err != nil {
		return nil, err
	}
	report.ResidentMiB, report.PeakMiB, err = up.memoryMiB()
	return report, err
}

func startNothing(log *os.File) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	url := "http://" + addr
	return startServer(url, url+"/readyz", log, self, "-serve-baseline", addr)
}

func startUp(o options, dir string, log *os.File) (_ *server, clickHouse string, err error) {
	var addrs [4]string
	for i := range addrs {
		if addrs[i], err = freeAddr(); err != nil {
			return nil, "", err
		}
	}
	s, err := startServer("http://"+addrs[0], "http://"+addrs[1]+"/readyz", log, o.binary, "up",
		"--data-dir", filepath.Join(dir, "data"), "--api-addr", addrs[0], "--admin-addr", addrs[1], "--nats-addr", addrs[2], "--clickhouse-addr", addrs[3])
	return s, "http://" + addrs[3], err
}

// compare measures both servers in turn, round by round.
func compare(o options, dir string, connections int, nothing, up *server) (Result, error) {
	result := Result{Connections: connections}
	var ratios []float64
	for round := range o.rounds {
		run := fmt.Sprintf("%d-%d-%d", time.Now().Unix(), connections, round)
		base, err := underLoad(o, dir, connections, nothing, run)
		if err != nil {
			return result, err
		}
		ours, err := underLoad(o, dir, connections, up, run)
		if err != nil {
			return result, err
		}
		fmt.Fprintf(os.Stderr, "%d connections, round %d: %.0f/s doing nothing, %.0f sends/s\n", connections, round+1, base.PerSecond, ours.PerSecond)
		result.Nothing, result.Sendhouse = append(result.Nothing, base), append(result.Sendhouse, ours)
		ratios = append(ratios, ours.PerSecond/base.PerSecond)
	}
	result.Ratio = median(ratios)
	return result, nil
}

func underLoad(o options, dir string, connections int, s *server, run string) (figures, error) {
	before, err := s.cpuSeconds()
	if err != nil {
		return figures{}, err
	}
	f, err := load(dir, s.url, connections, o, run)
	if err != nil {
		return figures{}, err
	}
	after, err := s.cpuSeconds()
	f.CPU = (after - before) / f.Seconds
	return f, err
}

// awaitRows waits until every answered send is a row. wrk leaves some sends on
// their way when it ends, so there may be a few rows more.
func awaitRows(clickHouse string, answered int) (rows int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), rowsTimeout)
	defer cancel()
	err = poll(ctx, func() error {
		text, err := get(ctx, clickHouse+"/?query=SELECT+count()+FROM+sendhouse.messages")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(text, &rows); err != nil {
			return err
		}
		if rows < answered {
			return fmt.Errorf("%d rows of %d answered sends", rows, answered)
		}
		return nil
	})
	return rows, err
}

// print writes the report for people.
func (r *Report) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "connections\tdo nothing/s\tsends/s\tratio\tp50 ms\tp99 ms\tCPU µs/send\tnot 200\t")
	for _, result := range r.Results {
		pick := func(runs []figures, value func(figures) float64) float64 {
			var values []float64
			for _, f := range runs {
				values = append(values, value(f))
			}
			return median(values)
		}
		rate := func(f figures) float64 { return f.PerSecond }
		refused := 0
		for _, f := range result.Sendhouse {
			refused += f.Refused + f.Broken
		}
		_, _ = fmt.Fprintf(table, "%d\t%.0f\t%.0f\t%.2f\t%.1f\t%.1f\t%.1f\t%d\t\n", result.Connections,
			pick(result.Nothing, rate), pick(result.Sendhouse, rate), result.Ratio,
			pick(result.Sendhouse, func(f figures) float64 { return f.P50 }),
			pick(result.Sendhouse, func(f figures) float64 { return f.P99 }),
			pick(result.Sendhouse, func(f figures) float64 { return f.CPU * 1e6 / f.PerSecond }), refused)
	}
	_ = table.Flush() // to the terminal
	_, _ = fmt.Fprintf(w, "%d cores, %s, %d channels (%d with permissions of their own), medians of %d rounds; everything in one process, every commit synced to disk, load generator on the same cores.\n",
		r.Cores, r.GoVersion, r.Channels, r.Defined, r.Rounds)
	_, _ = fmt.Fprintf(w, "%d sends answered, %d rows. Memory: %d MiB idle, %d MiB after the load, %d MiB at most.\n", r.Answered, r.Rows, r.IdleMiB, r.ResidentMiB, r.PeakMiB)
}
