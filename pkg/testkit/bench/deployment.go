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

// deployment is a running Sendhouse: one process, or several.
type deployment struct {
	urls       []string // of the API, one for each ingest process
	admin      string   // URL of the admin listener, of a process with ingest
	clickHouse string   // URL
	servers    []*server
	rows       int // that there must be in the end
	idleMiB    int // memory before the first send
}

// startUp runs everything in one process.
func startUp(ctx context.Context, binary, dir string, w workload, log *os.File) (*deployment, error) {
	addrs, err := freeAddrs(4)
	if err != nil {
		return nil, err
	}
	d := &deployment{urls: []string{"http://" + addrs[0]}, admin: "http://" + addrs[1], clickHouse: "http://" + addrs[3]}
	args := []string{"up", "--data-dir", filepath.Join(dir, "data"), "--api-addr", addrs[0], "--admin-addr", addrs[1], "--nats-addr", addrs[2], "--clickhouse-addr", addrs[3]}
	if w.partitions > 0 {
		args = append(args, "--partitions", strconv.Itoa(w.partitions))
	}
	up, err := launch(log, "up", d.admin+"/readyz", binary, args...)
	if err != nil {
		return nil, err
	}
	up.metricsURL = d.admin + "/metrics"
	d.servers = []*server{up}
	if err := up.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// natsConfig is what deploy recommends for one server, as far as it matters here: the
// name of the folder is to be filled in.
const natsConfig = `server_name: bench
jetstream { store_dir: %q, sync_interval: always, max_file_store: 64GB }
`

// apartPartitions is what sequencers make that run apart and are asked for nothing.
const apartPartitions = 4

// process is one to be started.
type process struct {
	name    string
	ready   string // URL
	metrics string // URL, or empty
	path    string
	args    []string
}

// startApart runs each role, a NATS server and the engine that `up` has inside in
// processes of their own, as many of each role as the case says.
func startApart(ctx context.Context, binary, dir string, w workload, log *os.File) (*deployment, error) {
	processes, d, err := plan(binary, dir, max(w.ingests, 1), max(w.sequencers, 1), max(w.writers, 1))
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		s, err := launch(log, p.name, p.ready, p.path, p.args...)
		if err != nil {
			return nil, errors.Join(err, d.stop())
		}
		s.metricsURL = p.metrics
		d.servers = append(d.servers, s)
		// The next may need it: a role ends if there is no NATS server yet, or no streams.
		if err := s.awaitReady(ctx); err != nil {
			return nil, errors.Join(err, d.stop())
		}
	}
	if err := d.awaitShares(ctx); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// plan says which processes to start, in their order, and where they are to be found.
func plan(binary, dir string, ingests, sequencers, writers int) ([]process, *deployment, error) {
	addrs, err := freeAddrs(3 + 2*ingests + sequencers + writers)
	if err != nil {
		return nil, nil, err
	}
	natsServer, err := testkit.NATSBinary()
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	natsAddr, natsAdmin, engine, addrs := addrs[0], addrs[1], addrs[2], addrs[3:]
	config := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf(natsConfig, filepath.Join(dir, "nats")) + fmt.Sprintf("listen: %q\nhttp: %q\n", natsAddr, natsAdmin)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	d := &deployment{clickHouse: "http://" + engine}
	out := []process{
		{name: "nats-server", ready: "http://" + natsAdmin + "/healthz", path: natsServer, args: []string{"--config", config}},
		{name: "clickhouse", ready: d.clickHouse + "/ping", path: self, args: []string{"-serve-engine", engine, "-engine-dir", filepath.Join(dir, "clickhouse")}},
	}
	role := func(count int, name string, args ...string) {
		for range count {
			admin := "http://" + addrs[0]
			of := append([]string{name, "--nats-url=nats://" + natsAddr, "--admin-addr=" + addrs[0]}, args...)
			addrs = addrs[1:]
			if name == "ingest" {
				d.urls, d.admin = append(d.urls, "http://"+addrs[0]), admin
				of, addrs = append(of, "--api-addr="+addrs[0]), addrs[1:]
			}
			out = append(out, process{name: name, ready: admin + "/readyz", metrics: admin + "/metrics", path: binary, args: of})
		}
	}
	role(sequencers, "sequencer", "--partitions="+strconv.Itoa(apartPartitions))
	role(writers, "writer", "--clickhouse-dsn="+d.clickHouse+"/sendhouse")
	role(ingests, "ingest")
	return out, d, nil
}

// stop ends the processes, those that were started last first.
func (d *deployment) stop() error {
	var errs []error
	for _, s := range slices.Backward(d.servers) {
		errs = append(errs, s.stop())
	}
	return errors.Join(errs...)
}

// usage is what processes have used so far.
type usage struct {
	seconds  float64 // of processor time
	switches int     // from one thread to another
}

// used is the usage of all processes of a name together, and of those that they have started.
func (d *deployment) used() (map[string]usage, error) {
	out := make(map[string]usage, len(d.servers))
	for _, s := range d.servers {
		pids, err := testkit.ProcessTree(s.pid())
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			seconds, err := cpuSeconds(pid)
			if err != nil {
				return nil, err
			}
			switches, err := contextSwitches(pid)
			if err != nil {
				return nil, err
			}
			out[s.name] = usage{out[s.name].seconds + seconds, out[s.name].switches + switches}
		}
	}
	return out, nil
}

// memory is resident memory of all processes in MiB, now and at most so far. The pages of a program that has started itself again
// count once.
func (d *deployment) memory() (now, most int, err error) {
	for _, s := range d.servers {
		pids, err := testkit.ProcessTree(s.pid())
		if err != nil {
			return 0, 0, err
		}
		for _, pid := range pids {
			n, m, err := memoryMiB(pid)
			if err != nil {
				return 0, 0, err
			}
			twice := 0
			if pid != s.pid() {
				if twice, err = programMiB(pid); err != nil {
					return 0, 0, err
				}
			}
			now, most = now+n-twice, most+m-twice
		}
	}
	return now, most, nil
}

// awaitRows waits until every message that was answered is a row. wrk leaves some
// sends on their way when it ends, so there may be a few rows more.
func (d *deployment) awaitRows(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rowsTimeout)
	defer cancel()
	return poll(ctx, rowsInterval, d.servers[0].ended, func() error {
		text, err := get(ctx, d.clickHouse+"/?query=SELECT+count()+FROM+sendhouse.messages+FORMAT+TSVRaw")
		if err != nil {
			return err
		}
		rows, err := strconv.Atoi(string(text[:max(len(text)-1, 0)]))
		if err != nil {
			return fmt.Errorf("count rows: %w", err)
		}
		if rows < d.rows {
			return fmt.Errorf("%d rows of %d answered sends", rows, d.rows)
		}
		return nil
	})
}
