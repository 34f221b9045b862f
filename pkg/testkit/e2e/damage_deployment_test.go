package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// damageDeployment is a deployment on one data folder: `up`, or the roles apart around a NATS server and an engine.
type damageDeployment struct {
	dir       string
	api, nats string             // host:port
	dsn       string             // for flags
	owner     []string           // the other flags of a command that may do everything in ClickHouse
	servers   []*testkit.Process // what a damage to files needs stopped beside the roles
	roles     []*node
	js        jetstream.JetStream
	table     *table // reads with FINAL

	exits []string // the last line of each role that has ended by itself
}

func newDamageDeployment(t *testing.T, dir string, apart bool) *damageDeployment {
	t.Helper()
	h := &damageDeployment{dir: dir}
	if apart {
		server := testkit.NewNATS(t, testkit.NATSOptions{StoreDir: filepath.Join(dir, "nats"), Config: "max_payload: 8MB"})
		clickHouse := testkit.FreeAddr(t)
		h.nats = strings.TrimPrefix(server.URL, "nats://")
		h.servers = []*testkit.Process{server.Process, enginetest.NewServer(t, filepath.Join(dir, "clickhouse"), clickHouse).Process}
		h.dsn = "http://" + clickHouse + "/sendhouse"
		h.table = &table{name: "sendhouse.messages FINAL", conn: open(t, "http://"+clickHouse+"/default")}
		url := "--nats-url=" + server.URL
		ingest := newRole(t, "ingest", append(damageIngestFlags(), url, "--clickhouse-dsn="+h.dsn)...)
		sequencer := newRole(t, "sequencer", append(damageFlags(), url)...)
		writer := newRole(t, "writer", url, "--clickhouse-dsn="+h.dsn, "--writer-lease-ttl=2s", "--flush-interval=100ms")
		h.api, h.roles = ingest.api, []*node{sequencer, ingest, writer}
	} else {
		up := newUpOn(t, dir, slices.Concat(damageFlags(), damageIngestFlags(), []string{"--writer-lease-ttl=2s", "--flush-interval=100ms"})...)
		h.api, h.nats, h.roles = up.api, up.nats, []*node{up}
		h.dsn, h.owner = "http://"+up.clickHouse+"/sendhouse", ownerFlags(dir)
		h.table = &table{name: "sendhouse.messages FINAL", conn: open(t, up.ownerDSN(t))}
	}
	h.js = jetStreamAt(t, "nats://"+h.nats)
	return h
}

func (h *damageDeployment) launchServers(t *testing.T) {
	t.Helper()
	for _, s := range h.servers {
		s.Launch()
	}
	if len(h.servers) > 0 {
		testkit.WaitFor(t, arriveTimeout, "NATS", func(ctx context.Context) error {
			_, err := h.js.AccountInfo(ctx)
			return err
		})
		// An engine whose data are damaged may end, and the roles are started all the same.
		_ = within(t.Context(), 10*time.Second, func(ctx context.Context) error {
			if slices.ContainsFunc(h.servers, ended) {
				return nil
			}
			return h.table.conn.Ping(ctx)
		})
	}
}

func (h *damageDeployment) launch() {
	for _, role := range h.roles {
		role.Launch()
	}
}

// relaunch starts the roles again that have ended, as a supervisor would.
func (h *damageDeployment) relaunch() {
	for _, role := range h.roles {
		if ended(role.Process) {
			h.noteExit(role)
			role.Launch()
		}
	}
}

func (h *damageDeployment) noteExit(role *node) {
	lines := strings.Split(strings.TrimSpace(role.Output()), "\n")
	h.exits = append(h.exits, lines[len(lines)-1])
}

func ended(p *testkit.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// stopRoles ends them with SIGTERM, or as kill -9 does.
func (h *damageDeployment) stopRoles(t *testing.T, kill bool) {
	t.Helper()
	for _, role := range slices.Backward(h.roles) {
		switch {
		case ended(role.Process):
			h.noteExit(role)
		case kill:
			role.Kill9()
		default:
			role.Stop()
		}
	}
}

// output is what all processes have written, with the roles first.
func (h *damageDeployment) output() string {
	var all strings.Builder
	for _, role := range h.roles {
		all.WriteString(role.Output())
	}
	return all.String()
}

// ready is nil if all roles are able to serve.
func (h *damageDeployment) ready(ctx context.Context) error {
	var errs []error
	for _, role := range h.roles {
		if ended(role.Process) {
			errs = append(errs, errors.New("a process has ended"))
			continue
		}
		errs = append(errs, role.ready(ctx))
	}
	return errors.Join(errs...)
}

// alerting finds the values of metrics from which alerts of damage are made.
var alerting = regexp.MustCompile(`(?m)^sendhouse_\w*(damaged|refused|unusable|wrong|missing|lost|restored|broken|foreign|incomplete)\w*(\{[^}]*\})? (.+)$`)

// alerts are the metrics that are not 0.
func (h *damageDeployment) alerts(ctx context.Context) map[string]string {
	found := make(map[string]string)
	for _, role := range h.roles {
		if ended(role.Process) {
			continue
		}
		_, page, err := ask(ctx, "http://"+role.admin+"/metrics")
		if err != nil {
			continue // a process that ends just now
		}
		for _, m := range alerting.FindAllStringSubmatch(page, -1) {
			if value := m[len(m)-1]; value != "0" {
				found[strings.TrimSuffix(m[0], " "+value)] = value
			}
		}
	}
	return found
}

// command runs one of the program's own commands against the deployment, with the flags that it needs.
func (h *damageDeployment) command(t *testing.T, args ...string) (status int, output string) {
	t.Helper()
	_, help := run(t, append(slices.Clone(args), "--help")...)
	for flag, value := range map[string]string{"--nats-url": "=nats://" + h.nats, "--clickhouse-dsn": "=" + h.dsn, "--yes": ""} {
		if flag == "--nats-url" && slices.Contains(args, "--data-dir") {
			continue // an `up` that has ended has named it
		}
		if strings.Contains(help, " "+flag) && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, flag) }) {
			args = append(args, flag+value)
			if flag == "--clickhouse-dsn" {
				args = append(args, h.owner...)
			}
		}
	}
	return run(t, args...)
}

// run is command without a trace in the log of a test that fails.
func run(t *testing.T, args ...string) (status int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), asOperator(args)...)
	text, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

// within asks check until it returns nil or the time is over, and returns the last error that the end of the time did not cause.
func within(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pause := time.NewTicker(200 * time.Millisecond)
	defer pause.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, last)
		case <-pause.C:
		}
	}
}
