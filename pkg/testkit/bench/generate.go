package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/load"
)

//go:embed send.lua
var sendScript string

// figures are what one measurement gave.
type figures struct {
	Messages  int     `json:"messages"`  // answered 200; in an open loop its warm-up included
	Rows      int     `json:"rows"`      // that they must become
	Refused   int     `json:"refused"`   // sends that got another answer
	Broken    int     `json:"broken"`    // requests without an answer
	Seconds   float64 `json:"seconds"`   // that it took, likewise
	PerSecond float64 `json:"rate"`      // messages answered 200, per second
	P50       float64 `json:"p50_ms"`    // of requests
	P99       float64 `json:"p99_ms"`    // of requests
	Generator float64 `json:"generator"` // its processor time, µs per message

	// Highest is the rate that was found where the load is half of it.
	Highest float64 `json:"highest_rate,omitempty"`

	CPU         float64            `json:"cpu"` // of the servers, µs per message, until the rows are there
	CPUBy       map[string]float64 `json:"cpu_by_process,omitempty"`
	SwitchesBy  map[string]float64 `json:"switches_by_process,omitempty"` // context switches per message, of the threads that did not end
	Pieces      Pieces             `json:"pieces,omitzero"`
	IdleMiB     int                `json:"idle_mib,omitempty"`     // before the first send
	ResidentMiB int                `json:"resident_mib,omitempty"` // after the load
	PeakMiB     int                `json:"peak_mib,omitempty"`
}

// generate puts the load of a case on a target, or shares it out among several. rate is 0
// for as much as they take. checked reports whether the answers must be right.
func generate(ctx context.Context, w workload, targets []string, dir string, duration time.Duration, rate float64, checked bool) (figures, error) {
	if w.usesWRK() {
		return wrkEach(ctx, w, targets, dir, duration)
	}
	target := targets[0] // only what wrk loads has more
	cfg := load.Config{
		Target: target, Rate: rate, Concurrency: w.connections, Duration: duration, Channels: uint32(w.channels), ChannelType: 1,
		Duplicates: w.duplicates, Bulk: w.bulk, Timeout: 10 * time.Second, GiveUp: 30 * time.Second,
	}
	if rate > 0 { // else what is due while the connections are being opened would count
		cfg.WarmUp = warmUp
	}
	sizes := w.sizes
	if sizes == "" {
		sizes = "100B"
	}
	if err := cfg.PayloadSize.UnmarshalText([]byte(sizes)); err != nil {
		return figures{}, err
	}
	run, err := load.New(cfg, false)
	if err != nil {
		return figures{}, err
	}
	report, err := run.Do(ctx, io.Discard)
	switch {
	case err != nil:
		return figures{}, err
	case report.Interrupted:
		return figures{}, ctx.Err()
	case checked && !report.Clean():
		return figures{}, fmt.Errorf("%w: %s", load.ErrViolated, strings.Join(report.Checks.First, "; "))
	case report.Sends == 0:
		return figures{}, fmt.Errorf("%s answered nothing: %s", target, strings.Join(report.Problems, "; "))
	}
	f := figures{
		Messages: int(report.Answered), Rows: int(report.Answered - report.DuplicateSends), Refused: int(report.TryAgain + report.Unanswered + report.NotBegun),
		Broken: int(report.Broken), Seconds: report.Seconds + cfg.WarmUp.Seconds(), PerSecond: report.PerSecond, P50: report.Latency.P50, P99: report.Latency.P99,
		Generator: report.Generator.MicrosecondsASend,
	}
	for _, n := range report.Refused {
		f.Refused += int(n)
	}
	return f, nil
}

// wrk runs it against a server; number tells apart those that run at one time.
func wrk(ctx context.Context, w workload, target, dir string, number, connections int, duration time.Duration) (figures, error) {
	script := filepath.Join(dir, fmt.Sprintf("send-%d.lua", number))
	if err := os.WriteFile(script, []byte(sendScript), 0o600); err != nil {
		return figures{}, err
	}
	cmd := exec.CommandContext(ctx, "wrk", "-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", int(duration.Seconds())),
		"--timeout", "10s", "-s", script, target)
	// Keys of one run must not be those of another: they would be duplicates.
	cmd.Env = append(os.Environ(), fmt.Sprintf("CHANNELS=%d", w.channels), fmt.Sprintf("SEED=%d", number), fmt.Sprintf("RUN=%d%d", time.Now().UnixMicro(), number))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return figures{}, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return figures{}, errors.New("wrk is not installed (Debian: apt-get install wrk)")
	case err != nil:
		return figures{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	f, err := parseWRK(string(out))
	if err == nil {
		f.Generator = micros((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), f.Messages)
	}
	return f, err
}

// parseWRK reads the line that send.lua writes in the end.
func parseWRK(out string) (figures, error) {
	for line := range strings.Lines(out) {
		var f figures
		var requests int
		n, _ := fmt.Sscanf(line, "RESULT %d %d %d %f %f %f", &requests, &f.Refused, &f.Broken, &f.Seconds, &f.P50, &f.P99)
		if n < 6 {
			continue
		}
		f.Messages = requests - f.Refused
		f.Rows = f.Messages
		if f.Messages <= 0 || f.Seconds <= 0 {
			return f, fmt.Errorf("wrk got no answer to its sends: %s", line)
		}
		f.PerSecond = float64(f.Messages) / f.Seconds
		return f, nil
	}
	return figures{}, fmt.Errorf("wrk printed no result: %s", out)
}

// micros is processor time for each message.
func micros(seconds float64, messages int) float64 {
	return seconds * 1e6 / float64(messages)
}
