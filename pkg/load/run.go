package load

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// progressInterval is how often a line says how it goes.
const progressInterval = time.Second

// Run is one run of the generator.
type Run struct {
	cfg      Config
	name     string
	script   *script
	pace     *pace
	recorder *recorder
	checker  *checker
	rows     *rowSums // nil: rows are not verified
	endpoint *endpoint

	brokenCount atomic.Uint64
	brokenMu    sync.Mutex
	brokenFirst []string
}

// New prepares a run. verify says that [Run.Verify] will be called: what was answered is then
// summed up for it.
func New(cfg Config, verify bool) (*Run, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	path, contentType := "/message/send", "application/json"
	if cfg.Bulk > 0 {
		path, contentType = "/message/sendbulk", "application/x-ndjson"
	}
	endpoint, err := newEndpoint(cfg.Target, path, contentType, cfg.APIToken.Reveal())
	if err != nil {
		return nil, err
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	name := "bench" + strconv.FormatInt(time.Now().Unix(), 36) + strconv.FormatUint(rand.Uint64N(36*36*36*36), 36)
	r := &Run{cfg: cfg, name: name, endpoint: endpoint, script: newScript(cfg, name, cfg.Seed), checker: newChecker(cfg.Channels)}
	if verify {
		r.rows = new(rowSums)
	}
	return r, nil
}

// broken counts requests that got no answer, or none that can be read.
func (r *Run) broken(err error) {
	r.brokenCount.Add(1)
	r.brokenMu.Lock()
	defer r.brokenMu.Unlock()
	if len(r.brokenFirst) < refusalsKept {
		r.brokenFirst = append(r.brokenFirst, err.Error())
	}
}

// Do sends until the run is over or ctx ends, waits for the answers under way, and returns the
// report. A line a second goes to progress. An error means that nothing was measured.
func (r *Run) Do(ctx context.Context, progress io.Writer) (*Report, error) {
	probe := newClient(r.endpoint, r.cfg.Timeout)
	if err := probe.connect(ctx); err != nil {
		return nil, fmt.Errorf("reach the API at %s: %w (is it running, and --target right?)", r.cfg.Target, err)
	}
	probe.close()

	start := time.Now()
	r.pace = newPace(r.cfg, start)
	r.recorder = newRecorder(start.Add(r.cfg.WarmUp))
	usedBefore := processorTime()
	var workers sync.WaitGroup
	clients := make([]*client, r.cfg.Concurrency)
	for i := range clients {
		clients[i] = newClient(r.endpoint, r.cfg.Timeout)
		w := &worker{number: i, run: r, client: clients[i]}
		workers.Go(func() { w.work(ctx) })
	}
	done := make(chan struct{})
	go func() {
		workers.Wait()
		close(done)
	}()
	r.watch(start, progress, done)
	used := processorTime() - usedBefore
	r.checker.finish()
	var dials uint64
	for _, c := range clients {
		dials += c.dials
	}
	return r.report(start, used, dials, ctx.Err() != nil), nil
}

// watch prints how it goes until done is closed.
func (r *Run) watch(start time.Time, progress io.Writer, done <-chan struct{}) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	window := newHistogram()
	var before uint64
	last := start
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			all := r.recorder.takeWindow(window)
			phase := ""
			if now.Sub(start) < r.cfg.WarmUp {
				phase = " (warm-up)"
			}
			_, _ = fmt.Fprintf(progress, "%4.0fs%s  %8.0f sends/s  p50 %.1f ms  p99 %.1f ms  answered %d  to try again %d  broken %d\n",
				now.Sub(start).Seconds(), phase, float64(all-before)/now.Sub(last).Seconds(),
				millis(window.ValueAtQuantile(50)), millis(window.ValueAtQuantile(99)), all, r.recorder.againCount.Load(), r.brokenCount.Load())
			before, last = all, now
		}
	}
}

func millis(micros int64) float64 { return float64(micros) / 1000 }

// processorTime is what this process has used, in user and system mode.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
