package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/openapi"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/engine"
	"github.com/sendhouse/sendhouse/pkg/process"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
	"github.com/sendhouse/sendhouse/writer/history"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == engine.Command { // As the process of the embedded ClickHouse.
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// metricsPage lists every metric; see TestMetricsAreDocumented.
const metricsPage = "docs/reference/metrics.md"

// metric is what the page and the program must agree on.
type metric struct {
	kind   string // counter, gauge, histogram
	labels string // sorted, separated by commas
}

// TestMetricsAreDocumented runs everything in one process, sends a message, and compares the metrics that are
// registered, whether they have a value or not, with the entries of the page.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	p := startUp(t)
	have := registered(t, p.Registry)
	want := documented(t)
	for _, name := range slices.Sorted(maps.Keys(have)) {
		page, ok := want[name]
		if !ok {
			t.Errorf("%s is not listed: add an entry for it to %s, type %s, labels %q, meaning and a hint, in the form of its neighbours", name, metricsPage, have[name].kind, have[name].labels)
			continue
		}
		if page.labels != have[name].labels {
			t.Errorf("%s has the labels %q, and %s says %q", name, have[name].labels, metricsPage, page.labels)
		}
		if have[name].kind != "" && page.kind != have[name].kind { // a metric without a value does not tell its type
			t.Errorf("%s is a %s, and %s says %s", name, have[name].kind, metricsPage, page.kind)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, ok := have[name]; !ok {
			t.Errorf("%s lists %s, which no part of the program has: take it out, or mend the name, or, if it is only there with a setting, give it to startUp", metricsPage, name)
		}
	}

	families, err := p.Registry.Gather()
	require.NoError(t, err)
	ours := slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "sendhouse_") })
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	require.NoError(t, err)
	require.Empty(t, problems, "Prometheus' conventions")
}

// startUp runs `sendhouse up` inside the test, until the test ends.
func startUp(t *testing.T) *process.Process {
	t.Helper()
	var c cli
	var output bytes.Buffer
	chosen, err := config.Parse([]string{
		"up", "--data-dir=" + t.TempDir(), "--api-addr=" + freeAddr(t), "--admin-addr=127.0.0.1:0", "--nats-addr=127.0.0.1:0",
		"--clickhouse-addr=127.0.0.1:0", "--wal-bytes-max=64MiB", "--messages-bytes-max=64MiB", "--partitions=2",
	}, &c, kong.Writers(&output, &output))
	require.NoError(t, err, output.String())
	log, level, err := telemetry.NewLogger(telemetry.LogConfig{LogLevel: slog.LevelError, LogFormat: telemetry.LogText}, os.Stderr)
	require.NoError(t, err)
	p := process.New(log, level)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- chosen.Run(p, &command.Invocation{Ctx: ctx, Stdout: io.Discard}) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	select {
	case <-p.Group.Ready():
	case err := <-ended:
		require.NoError(t, err, "it ended at once")
	case <-time.After(time.Minute):
		require.FailNow(t, "it is not ready")
	}
	body := `{"from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.Up.APIAddr.String()+"/message/send", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusOK, answer.StatusCode)
	return p
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

// metricDescription is the only way to read a Desc.
var metricDescription = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: .*, constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// registered are our metrics in a registry. The kind is empty of those that have no value.
func registered(t *testing.T, reg *prometheus.Registry) map[string]metric {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	kinds := map[string]string{}
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		reg.Describe(descs)
		close(descs)
	}()
	all := map[string]metric{}
	for d := range descs {
		found := metricDescription.FindStringSubmatch(d.String())
		require.NotNil(t, found, d.String())
		name := found[1]
		if !strings.HasPrefix(name, "sendhouse_") {
			continue // of the Go runtime and the like: not ours to explain
		}
		var labels []string
		for label := range strings.SplitSeq(found[2], ",") {
			if key, _, ok := strings.Cut(label, "="); ok {
				labels = append(labels, key)
			}
		}
		for label := range strings.SplitSeq(found[3], ",") {
			if label != "" {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		all[name] = metric{kind: kinds[name], labels: strings.Join(labels, ",")}
	}
	return all
}

// metricEntry is an entry of the page: - `name` (type; `label`, `label`): meaning. **Hint**: where to look
var metricEntry = regexp.MustCompile("(?m)^- `(sendhouse_\\w+)` \\((\\w+)(?:;([^)]*))?\\): *\\S")

// documented reads the entries of the page.
func documented(t *testing.T) map[string]metric {
	t.Helper()
	text, err := os.ReadFile(metricsPage)
	require.NoError(t, err)
	all := map[string]metric{}
	for _, entry := range metricEntry.FindAllStringSubmatch(string(text), -1) {
		labels := strings.FieldsFunc(entry[3], func(r rune) bool { return strings.ContainsRune(" ,`\n", r) })
		slices.Sort(labels)
		require.NotContains(t, all, entry[1], "it is listed twice")
		all[entry[1]] = metric{kind: entry[2], labels: strings.Join(labels, ",")}
	}
	return all
}

// TestHostedRoutesAreDescribed holds the routes that ingest hosts for others against its document, both ways. Those of ingest itself have a test
// there.
func TestHostedRoutesAreDescribed(t *testing.T) {
	t.Parallel()
	served := make(map[string]bool)
	for _, route := range history.NotServed() { // the same that are served
		served[route.Method+" "+route.Path] = true
	}
	require.NotEmpty(t, served)
	doc, err := openapi3.NewLoader().LoadFromData(openapi.Document())
	require.NoError(t, err)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			route := method + " " + path
			if op.Extensions["x-hosted"] != nil && !served[route] {
				t.Errorf("ingest/openapi/openapi.yaml describes %s as hosted, and no package hosts it: take it out there, or add its package to this test", route)
			}
			delete(served, route)
		}
	}
	for route := range served {
		t.Errorf("%s is hosted, and ingest/openapi/openapi.yaml does not describe it: add it under paths, with x-hosted, its request and all its answers, and to docs/reference/api.md", route)
	}
}

// TestLogOfAFailedStart: with a log in JSON, all of it is, the line that says why the process ended included.
func TestLogOfAFailedStart(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	require.Equal(t, 2, run([]string{"sequencer", "--log-format=json", "--admin-addr=127.0.0.1:0"}, io.Discard, &stderr))
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	for _, line := range lines {
		require.True(t, json.Valid([]byte(line)), line)
	}
	var last struct{ Level, Msg, Error string }
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	require.Equal(t, "ERROR", last.Level)
	require.Contains(t, last.Error, "--nats-url: is missing")
}

// settingPattern finds the variables that a file of deploy/ sets: NAME: value, NAME=value.
var settingPattern = regexp.MustCompile(`\bSENDHOUSE_[A-Z_]+(?:: |=)`)

// TestDeployedVariablesAreKnown sets every variable that the images and manifests set, of whichever command.
//
//nolint:paralleltest // it sets the environment
func TestDeployedVariablesAreKnown(t *testing.T) {
	for _, path := range []string{"deploy/docker/compose.yaml", "deploy/docker/Dockerfile", "deploy/kubernetes/base/config.yaml", "deploy/README.md"} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		found := settingPattern.FindAllString(string(text), -1)
		require.NotEmpty(t, found, path)
		for _, set := range found {
			t.Setenv(strings.TrimRight(set, ":= "), "1")
		}
	}
	_, err := config.Parse([]string{"version"}, new(cli))
	require.NotErrorIs(t, err, config.ErrUnknownVariable)
}

// TestCredentialsAreNotPrinted tries commands whose URLs hold a password and cannot work.
func TestCredentialsAreNotPrinted(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"tail", "--nats-url=nats://user:hunter2@127.0.0.1:1"},
		{"tail", "--nats-url", "nats://hunter2@127.0.0.1:1,nats://user:hunter2@127.0.0.1:1"},
		{"tail", "--nats-url", "user:hunter2@127.0.0.1:1"},
		{"tail", "--nats-url=tls://user:hunter2@127.0.0.1:1"},
		{"tail", "--nats-url=ws://user:hunter2@127.0.0.1:1"},
		{"tail", "--nats-url=nats://user:hunter2/2@127.0.0.1:1"},
		{"tail", "--nats-url=nats://user:hunter2 2@127.0.0.1:1"},
		{"tail", "--nats-url=nats://user:hunter2,2@127.0.0.1:1"},
		{"tail", "--nats-url=nats://user:%zzhunter2@127.0.0.1:1"},
		{"tail", "--nats-url=nats://user:hunter2@127.0.0.1:port"},
		{"tail", "--nats-url=nats://user:hunter2@[::1"},
		{"tail", "nats://user:hunter2@127.0.0.1:1"},
		{"up", "--nats-addr=nats://user:hunter2@127.0.0.1:1"},
		{"writer", "--nats-url=nats://user:hunter2@127.0.0.1:1", "--clickhouse-dsn=http://127.0.0.1:1"},
		{"migrate", "--clickhouse-dsn=http://user:hunter2@127.0.0.1:1/db"},
		{"migrate", "--clickhouse-dsn=http://127.0.0.1:1/db?username=user&password=hunter2"},
		{"migrate", "--clickhouse-dsn=clickhouse://user:hunter2@127.0.0.1:1,127.0.0.1:2"},
		{"migrate", "--clickhouse-dsn=clickhouse://user:hunter2/2@127.0.0.1:1"},
		{"migrate", "--clickhouse-dsn=clickhouse://user:hunter2#2@127.0.0.1:1"},
		{"migrate", "--clickhouse-dsn=clickhouse://user:hunter2?2@127.0.0.1:1"},
		{"migrate", "--clickhouse-dsn=user:hunter2@127.0.0.1:1"},
		{"migrate", "--clickhouse-dsn=ftp://user:hunter2@127.0.0.1:1"},
		{"migrate", "--clickhouse-dsn=clickhouse://user:hunter2@127.0.0.1:port"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			require.NotZero(t, run(append(args, "--log-level=debug"), &stdout, &stderr))
			require.NotEmpty(t, stderr.String())
			require.NotContains(t, stdout.String()+stderr.String(), "hunter2")
			if strings.HasPrefix(args[1], "--nats-url") {
				require.Contains(t, stderr.String(), "credentials on the command line", "it warns")
			}
		})
	}
}

// TestSecurityNamesItsTests: a promise of SECURITY.md whose test is gone, goes.
func TestSecurityNamesItsTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("SECURITY.md")
	require.NoError(t, err)
	var sources strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		sources.Write(source)
		return err
	}))
	names := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(string(text), -1)
	require.Greater(t, len(names), 10)
	for _, name := range names {
		require.Contains(t, sources.String(), "\nfunc "+name+"(")
	}
	for _, path := range regexp.MustCompile("`([a-z/_]+_test\\.go)`").FindAllStringSubmatch(string(text), -1) {
		require.FileExists(t, path[1])
	}
}
