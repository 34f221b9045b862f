package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	// rowsTimeout bounds the wait, after a load, for the last rows.
	rowsTimeout = 120 * time.Second
	// rowsInterval is the pause between two looks at the table: each costs the engine some milliseconds of the
	// processor time that is measured.
	rowsInterval = 250 * time.Millisecond
)

// house is a Sendhouse: one process, or several.
type house struct {
	url        string // of the API
	admin      string // URL of the admin listener, of the process with ingest
	clickHouse string // URL
	servers    []*server
	rows       int // that there must be in the end
	idleMiB    int // memory before the first send
}

// startUp runs everything in one process.
func startUp(ctx context.Context, binary, dir string, log *os.File) (*house, error) {
	addrs, err := freeAddrs(4)
	if err != nil {
		return nil, err
	}
	h := &house{url: "http://" + addrs[0], admin: "http://" + addrs[1], clickHouse: "http://" + addrs[3]}
	up, err := launch(log, "up", h.admin+"/readyz", binary, "up",
		"--data-dir", filepath.Join(dir, "data"), "--api-addr", addrs[0], "--admin-addr", addrs[1], "--nats-addr", addrs[2], "--clickhouse-addr", addrs[3])
	if err != nil {
		return nil, err
	}
	h.servers = []*server{up}
	return h.ready(ctx)
}

// natsConfig is what deploy recommends for one server, as far as it matters here: the
// name of the folder is to be filled in.
const natsConfig = `server_name: bench
jetstream { store_dir: %q, sync_interval: always, max_file_store: 64GB }
`

// startApart runs each role, a NATS server and the engine that `up` has inside in
// processes of their own.
func startApart(ctx context.Context, binary, dir string, log *os.File) (*house, error) {
	addrs, err := freeAddrs(7)
	if err != nil {
		return nil, err
	}
	natsServer, err := testkit.NATSBinary()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf(natsConfig, filepath.Join(dir, "nats")) + fmt.Sprintf("listen: %q\nhttp: %q\n", addrs[0], addrs[1])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	url := func(i int) string { return "http://" + addrs[i] }
	nats := "--nats-url=nats://" + addrs[0]
	h := &house{url: url(2), admin: url(3), clickHouse: url(6)}
	for _, c := range []struct {
		name, ready, path string
		args              []string
	}{
		{"nats-server", url(1) + "/healthz", natsServer, []string{"--config", config}},
		{"clickhouse", url(6) + "/ping", self, []string{"-serve-engine", addrs[6], "-engine-dir", filepath.Join(dir, "clickhouse")}},
		{"sequencer", url(4) + "/readyz", binary, []string{"sequencer", nats, "--admin-addr=" + addrs[4]}},
		{"writer", url(5) + "/readyz", binary, []string{"writer", nats, "--admin-addr=" + addrs[5], "--clickhouse-dsn=" + url(6) + "/sendhouse"}},
		{"ingest", url(3) + "/readyz", binary, []string{"ingest", nats, "--admin-addr=" + addrs[3], "--api-addr=" + addrs[2]}},
	} {
		s, err := launch(log, c.name, c.ready, c.path, c.args...)
		if err != nil {
			return nil, errors.Join(err, h.stop())
		}
		h.servers = append(h.servers, s)
	}
	return h.ready(ctx)
}

// ready waits for all processes; they wait for each other.
func (h *house) ready(ctx context.Context) (*house, error) {
	for _, s := range h.servers {
		if err := s.awaitReady(ctx); err != nil {
			return nil, errors.Join(err, h.stop())
		}
	}
	return h, nil
}

// stop ends the processes, those that were started last first.
func (h *house) stop() error {
	var errs []error
	for _, s := range slices.Backward(h.servers) {
		errs = append(errs, s.stop())
	}
	return errors.Join(errs...)
}

// cpu is the processor time in seconds that each process has used.
func (h *house) cpu() (map[string]float64, error) {
	out := make(map[string]float64, len(h.servers))
	for _, s := range h.servers {
		seconds, err := cpuSeconds(s.pid())
		if err != nil {
			return nil, err
		}
		out[s.name] = seconds
	}
	return out, nil
}

// memory is resident memory of all processes in MiB, now and at most so far.
func (h *house) memory() (now, most int, err error) {
	for _, s := range h.servers {
		n, m, err := memoryMiB(s.pid())
		if err != nil {
			return 0, 0, err
		}
		now, most = now+n, most+m
	}
	return now, most, nil
}

// awaitRows waits until every message that was answered is a row. wrk leaves some
// sends on their way when it ends, so there may be a few rows more.
func (h *house) awaitRows(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rowsTimeout)
	defer cancel()
	return poll(ctx, rowsInterval, h.servers[0].ended, func() error {
		text, err := get(ctx, h.clickHouse+"/?query=SELECT+count()+FROM+sendhouse.messages+FORMAT+TSVRaw")
		if err != nil {
			return err
		}
		rows, err := strconv.Atoi(string(text[:max(len(text)-1, 0)]))
		if err != nil {
			return fmt.Errorf("count rows: %w", err)
		}
		if rows < h.rows {
			return fmt.Errorf("%d rows of %d answered sends", rows, h.rows)
		}
		return nil
	})
}
