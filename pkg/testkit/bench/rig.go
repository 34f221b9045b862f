package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// warmUp is how long a Sendhouse gets the load before it is measured.
const warmUp = time.Second

// rig is what all measurements of a run have in common.
type rig struct {
	options
	folder     string // of this run; all that is written is in it
	log        *os.File
	nothing    *server // the handler that does nothing
	nothingURL string
}

// withRig sets a rig up, lets do use it, and removes it. The log of the servers is
// kept if something went wrong.
func withRig(ctx context.Context, o options, do func(*rig) error) (err error) {
	folder, err := os.MkdirTemp(o.dir, "sendhouse-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil || ctx.Err() != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	if err := raiseFileLimit(); err != nil {
		return err
	}
	r := &rig{options: o, folder: folder}
	if r.log, err = os.Create(filepath.Join(folder, "servers.log")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.log.Close()) }()
	// A copy, so that it can be built again while this runs.
	r.binary = filepath.Join(folder, "sendhouse")
	if err := copyProgram(o.binary, r.binary); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	if err := r.startNothing(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.nothing.stop()) }()
	return do(r)
}

func (r *rig) startNothing(ctx context.Context) error {
	addrs, err := freeAddrs(1)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r.nothingURL = "http://" + addrs[0]
	if r.nothing, err = launch(r.log, "handler", r.nothingURL+"/readyz", self, "-serve-nothing", addrs[0]); err != nil {
		return err
	}
	if err := r.nothing.awaitReady(ctx); err != nil {
		return errors.Join(err, r.nothing.stop())
	}
	return nil
}

// doNothing measures the handler that does nothing. rate is 0 for as much as it takes.
func (r *rig) doNothing(ctx context.Context, w workload, rate float64) (figures, error) {
	before, err := cpuSeconds(r.nothing.pid())
	if err != nil {
		return figures{}, err
	}
	// As many generators as Sendhouse gets.
	targets := slices.Repeat([]string{r.nothingURL}, max(w.ingests, 1))
	f, err := generate(ctx, w.nothing(), targets, r.folder, r.duration, rate, false)
	if err != nil {
		return f, fmt.Errorf("the handler that does nothing: %w", err)
	}
	after, err := cpuSeconds(r.nothing.pid())
	f.CPU = micros(after-before, f.Messages)
	return f, err
}

// sendhouse measures a binary, started on an empty folder.
func (r *rig) sendhouse(ctx context.Context, binary string, w workload) (f figures, err error) {
	err = r.withDeployment(ctx, binary, w, func(d *deployment) error {
		var rate, highest float64
		if w.half {
			best, err := generate(ctx, w, d.urls, r.folder, r.duration, 0, true)
			if err != nil {
				return err
			}
			d.rows += best.Rows
			highest, rate = best.PerSecond, best.PerSecond/2
		}
		if f, err = d.measure(ctx, func() (figures, error) { return generate(ctx, w, d.urls, r.folder, r.duration, rate, true) }); err != nil {
			return err
		}
		f.Highest = highest
		return nil
	})
	return f, err
}

// withDeployment starts a binary on an empty folder, prepares it for a case and warms it
// up, lets do use it, and removes it all.
func (r *rig) withDeployment(ctx context.Context, binary string, w workload, do func(*deployment) error) (err error) {
	dir, err := os.MkdirTemp(r.folder, w.name+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	start := startUp
	if w.apart {
		start = startApart
	}
	d, err := start(ctx, binary, dir, w, r.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if d.idleMiB, _, err = d.memory(); err != nil {
		return err
	}
	if err := define(ctx, min(r.defined, w.channels), d.urls[0]); err != nil {
		return err
	}
	if w.fill {
		if err := fill(ctx, w.channels, d.urls[0]); err != nil {
			return err
		}
		d.rows += w.channels
	}
	warm, err := generate(ctx, w, d.urls, r.folder, warmUp, 0, true)
	if err != nil {
		return err
	}
	d.rows += warm.Rows
	return do(d)
}

// measure takes the processor time of all processes from the first send of a load to
// the row of the last, while nothing else is left to do.
func (d *deployment) measure(ctx context.Context, load func() (figures, error)) (figures, error) {
	if err := d.awaitRows(ctx); err != nil {
		return figures{}, err
	}
	countersBefore, err := d.counters(ctx)
	if err != nil {
		return figures{}, err
	}
	before, err := d.used()
	if err != nil {
		return figures{}, err
	}
	f, err := load()
	if err != nil {
		return f, err
	}
	d.rows += f.Rows
	if err := d.awaitRows(ctx); err != nil {
		return f, err
	}
	after, err := d.used()
	if err != nil {
		return f, err
	}
	f.CPUBy, f.SwitchesBy = make(map[string]float64, len(after)), make(map[string]float64, len(after))
	for name, now := range after {
		f.CPUBy[name] = micros(now.seconds-before[name].seconds, f.Messages)
		f.SwitchesBy[name] = float64(now.switches-before[name].switches) / float64(f.Messages)
		f.CPU += f.CPUBy[name]
	}
	countersAfter, err := d.counters(ctx)
	if err != nil {
		return f, err
	}
	f.Pieces = piecesOf(countersBefore, countersAfter, f.Seconds)
	f.IdleMiB = d.idleMiB
	f.ResidentMiB, f.PeakMiB, err = d.memory()
	return f, err
}

// raiseFileLimit makes room for many connections, in the processes that are started
// too: those inherit a limit that was set by hand, not the one that Go gives itself.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

func copyProgram(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it is only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
