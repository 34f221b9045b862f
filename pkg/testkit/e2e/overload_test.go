package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	overloadConnections = 2000
	overloadChannels    = 10_000
	capacityConnections = 256
	overloadDuration    = 4 * time.Second
	// overloadLongVariable asks for a longer run, whose figures are worth something: OVERLOAD_DURATION=15s.
	overloadLongVariable = "OVERLOAD_DURATION"

	// What a run must not exceed anywhere, on a machine that others use too. How well it does is in what it prints.
	acceptedWithin  = 4 * time.Second
	refusedWithin   = 3 * time.Second
	normalWithin    = 30 * time.Second
	overloadRSSMax  = 2 << 30
	normalLatency   = 100 * time.Millisecond
	normalInARow    = 20
	memoryLookEvery = 100 * time.Millisecond
)

// TestEndToEndOverload offers twice what the machine can do, over 2,000 connections. What is accepted is answered
// soon, the rest is refused at once and told when to come again, memory stays within bounds, nothing crashes, and
// soon afterwards all is as before.
func TestEndToEndOverload(t *testing.T) { //nolint:paralleltest // it takes the whole machine
	duration := overloadDuration
	if text := os.Getenv(overloadLongVariable); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err, overloadLongVariable)
	}
	for _, row := range []struct { //nolint:paralleltest // see above
		name    string
		flags   []string
		refuses bool
	}{
		// 2,000 clients that wait for their answers are no more than 2,000 sends: a machine that does 10,000 a second
		// can answer them all within 200 ms.
		{"as it comes", nil, false},
		{"refusing early", []string{"--ingest-wait-max=10ms"}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			over := overload(t, duration, row.flags...)
			if row.refuses {
				require.NotEmpty(t, over.refused)
			}
		})
	}
}

// overload finds out what a process can do, offers it twice as much, and checks all that must hold.
func overload(t *testing.T, duration time.Duration, flags ...string) *flooded {
	t.Helper()
	up := newUp(t, flags...)
	up.Start()
	able := flood(t, up.api, floodConfig{connections: capacityConnections, duration: duration / 2, name: "able"})
	capacity := float64(able.accepted()) / able.took.Seconds()
	t.Logf("what it can do: %s", able)
	require.Positive(t, able.accepted())

	watch := watchMemory(t, up.PID())
	over := flood(t, up.api, floodConfig{connections: overloadConnections, duration: duration, perSecond: 2 * capacity, name: "over"})
	normal := backToNormal(t, up.api)
	before, peak := watch()
	t.Logf("offered %.0f/s: %s", 2*capacity, over)
	t.Logf("memory: %d MiB before, %d MiB at most; back to normal after %s", before>>20, peak>>20, normal.Round(time.Millisecond))

	up.requireRuns(t)
	require.Empty(t, over.faults)
	require.Positive(t, over.accepted())
	require.Less(t, quantile(over.ok, .99), acceptedWithin)
	require.Less(t, quantile(over.refused, .99), refusedWithin)
	require.Less(t, normal, normalWithin)
	require.Less(t, peak, overloadRSSMax)
	require.Equal(t, 0, up.Stop())
	return over
}

// floodConfig says how to flood.
type floodConfig struct {
	connections int
	duration    time.Duration
	perSecond   float64 // over all connections; 0: as fast as the answers come
	name        string  // of this flood, in each client_msg_no
}

// flooded is what became of it.
type flooded struct {
	took        time.Duration
	ok, refused []time.Duration // how long answers 200 and 503 took
	codes       map[string]int  // of what was refused
	faults      []string        // what must not happen
}

func (f *flooded) accepted() int { return len(f.ok) }

func (f *flooded) String() string {
	ms := func(d []time.Duration, q float64) string {
		return quantile(d, q).Round(100 * time.Microsecond).String()
	}
	text := fmt.Sprintf("%.0f/s accepted, p50 %s p99 %s max %s", float64(len(f.ok))/f.took.Seconds(), ms(f.ok, .5), ms(f.ok, .99), ms(f.ok, 1))
	if len(f.refused) > 0 {
		text += fmt.Sprintf("; %.0f/s refused, p50 %s p99 %s max %s %v", float64(len(f.refused))/f.took.Seconds(), ms(f.refused, .5), ms(f.refused, .99), ms(f.refused, 1), f.codes)
	}
	return text
}

// quantile is the q-quantile of d.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[int(q*float64(len(d)-1))]
}

// flood sends over many connections, each from its own schedule: a client that has not been answered sends late,
// and then without a pause until it has caught up. It speaks HTTP by itself, since it shares the machine with what it
// measures.
func flood(t *testing.T, address string, cfg floodConfig) *flooded {
	t.Helper()
	all := &flooded{codes: make(map[string]int)}
	var mu sync.Mutex
	var clients sync.WaitGroup
	ready, begin := sync.WaitGroup{}, make(chan struct{})
	ready.Add(cfg.connections)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for n := range cfg.connections {
		clients.Go(func() {
			one := &flooder{ctx: ctx, address: address, prefix: fmt.Sprintf("%s-%d-", cfg.name, n), channel: n * overloadChannels / cfg.connections, flooded: flooded{codes: make(map[string]int)}}
			if cfg.perSecond > 0 {
				one.interval = time.Duration(float64(cfg.connections) / cfg.perSecond * float64(time.Second))
			}
			one.connect()
			ready.Done()
			<-begin
			one.run(cfg.duration, time.Duration(n)*one.interval/time.Duration(cfg.connections))
			mu.Lock()
			defer mu.Unlock()
			all.ok, all.refused, all.faults = append(all.ok, one.ok...), append(all.refused, one.refused...), append(all.faults, one.faults...)
			for code, n := range one.codes {
				all.codes[code] += n
			}
		})
	}
	ready.Wait()
	started := time.Now()
	close(begin)
	clients.Wait()
	all.took = time.Since(started)
	return all
}

// flooder is one connection of a flood.
type flooder struct {
	flooded
	ctx      context.Context //nolint:containedctx // of the flood
	address  string
	prefix   string
	channel  int
	interval time.Duration
	sent     int

	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func (f *flooder) connect() {
	conn, err := new(net.Dialer).DialContext(f.ctx, "tcp", f.address)
	if err != nil {
		f.faults = append(f.faults, err.Error())
		return
	}
	f.conn, f.in = conn, bufio.NewReaderSize(conn, 1<<10)
}

func (f *flooder) run(duration, first time.Duration) {
	if f.conn == nil {
		return
	}
	defer func() { _ = f.conn.Close() }() // all that matters has been read
	begun := time.Now()
	timer := time.NewTimer(first)
	defer timer.Stop()
	for due := first; due < duration && time.Since(begun) < duration; due += f.interval {
		if wait := due - time.Since(begun); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-f.ctx.Done():
				return
			}
		}
		if err := f.send(); err != nil {
			f.faults = append(f.faults, err.Error())
			return
		}
	}
}

// send sends one message and reads the answer.
func (f *flooder) send() error {
	f.sent++
	body := fmt.Sprintf(`{"from_uid":"u%d","channel_id":"g%d","channel_type":2,"client_msg_no":"%s%d","payload":"SGVsbG8gV29ybGQ="}`, f.sent%100, (f.channel+f.sent)%overloadChannels, f.prefix, f.sent)
	f.request = fmt.Appendf(f.request[:0], "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	begun := time.Now()
	if err := f.conn.SetDeadline(begun.Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := f.conn.Write(f.request); err != nil {
		return err
	}
	res, err := http.ReadResponse(f.in, nil)
	if err != nil {
		return err
	}
	var answer [512]byte
	n, err := io.ReadFull(res.Body, answer[:])
	if errors.Is(err, io.ErrUnexpectedEOF) { // it is shorter, as it should be
		err = nil
	}
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	took := time.Since(begun)
	switch {
	case res.StatusCode == http.StatusOK:
		f.ok = append(f.ok, took)
	case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "":
		f.refused = append(f.refused, took)
		_, rest, _ := strings.Cut(string(answer[:n]), `"code":"`)
		code, _, _ := strings.Cut(rest, `"`)
		f.codes[code]++
	default:
		return fmt.Errorf("%d %s", res.StatusCode, answer[:n])
	}
	return nil
}

// backToNormal waits until sends are answered as if nothing had been, and says how long that took.
func backToNormal(t *testing.T, address string) time.Duration {
	t.Helper()
	begun := time.Now()
	testkit.WaitFor(t, normalWithin, "sends to be answered as usual", func(ctx context.Context) error {
		f := &flooder{ctx: ctx, address: address, prefix: fmt.Sprintf("after-%d-", time.Since(begun)), flooded: flooded{codes: make(map[string]int)}}
		f.connect()
		if f.conn == nil {
			return errors.New(f.faults[0])
		}
		defer func() { _ = f.conn.Close() }() // see run
		for range normalInARow {
			if err := f.send(); err != nil {
				return err
			}
		}
		if len(f.refused) > 0 || quantile(f.ok, 1) > normalLatency {
			return fmt.Errorf("not yet: %s", &f.flooded)
		}
		return nil
	})
	return time.Since(begun)
}

// watchMemory looks at the memory of a process until the returned function is called.
func watchMemory(t *testing.T, pid int) (stop func() (before, peak int)) {
	t.Helper()
	before, err := testkit.ProcBytes(pid, "status", "VmRSS")
	if errors.Is(err, fs.ErrNotExist) {
		t.Log("this system has no /proc to read the memory of a process from")
		return func() (int, int) { return 0, 0 }
	}
	require.NoError(t, err)
	var peak atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		ticker := time.NewTicker(memoryLookEvery)
		defer ticker.Stop()
		for {
			if now, err := testkit.ProcBytes(pid, "status", "VmRSS"); err == nil {
				peak.Store(max(peak.Load(), int64(now)))
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() (int, int) {
		cancel()
		watching.Wait()
		return before, int(peak.Load())
	}
}
