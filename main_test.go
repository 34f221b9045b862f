package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
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

// TestEndToEndWrongSettings starts the program with several wrong settings at once, for each command: all of them are reported, and
// nothing is connected, opened or written.
func TestEndToEndWrongSettings(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "sendhouse")
	output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(output))
	const (
		ping = "--nats-ping-interval=-1s"
		dsn  = "--clickhouse-dsn=ftp://host/db"
		role = "--role=two.words"
	)
	natsGiven := []string{"--nats-url=nats://ADDR"}
	commands := map[string]struct {
		right   []string // with ADDR for the address of a server
		wrong   []string // each is reported by its name
		missing string
	}{
		"up": {right: []string{"--nats-url=nats://ADDR", "--clickhouse-dsn=http://ADDR/db", "--otlp-endpoint=http://ADDR"}, wrong: []string{
			"--partitions=0x10", "--dedup-window=1ms", "--replicas=2", "--api-addr=0.0.0.0:1", "--outbox-messages-max=1", "--sequencer-lease-ttl=1ms",
			"--flush-rows-max=0", "--history-timeout=1h", "--allowed-hosts=a/b", "--trace-ratio=2", "--clickhouse-tls-ca=/no/such/file", ping,
		}},
		"ingest": {missing: "--nats-url", wrong: []string{
			"--api-tokens-file=/no/such/file", "--api-token-rate=-1", "--ingest-ack-timeout=0s", "--history-timeout=1h", "--ingest-payload-rules=maybe",
			dsn, "--allowed-hosts=a/b", "--trace-ratio=2",
		}},
		"sequencer run":       {missing: "--nats-url", wrong: []string{"--partitions=5000", "--wal-bytes-max=1MiB", "--checkpoint-interval=1s", "--sequencer-lease-ttl=1ms"}},
		"sequencer status":    {missing: "--nats-url", wrong: []string{ping}},
		"writer run":          {right: natsGiven, missing: "--clickhouse-dsn", wrong: []string{"--flush-interval=0s", "--writer-inserts-max=0", ping}},
		"writer status":       {missing: "--nats-url", wrong: []string{ping}},
		"audit":               {right: natsGiven, wrong: []string{ping, dsn, "--audit-memory=many"}},
		"bench":               {right: []string{"--target=http://ADDR"}, wrong: []string{"--rate=-1", "--bulk=-1", "--verify-patience=0s", "--clickhouse-user=u"}},
		"tail":                {right: natsGiven, wrong: []string{ping, "--channel-type=0", "--last=3"}},
		"replay ndjson":       {right: []string{"--nats-url=nats://ADDR", "--output=out", "--state=state"}, wrong: []string{ping, "--replay-rate=-1", "--replay-channel=x"}},
		"replay nats":         {right: natsGiven, wrong: []string{ping, "--replay-rate=-1", "--subject=messages.x"}},
		"replay clickhouse":   {right: natsGiven, wrong: []string{ping, "--replay-rate=-1", dsn}},
		"deadletters ls":      {right: natsGiven, wrong: []string{"--limit=-1", role, "--since=-1s", ping}},
		"deadletters show":    {right: natsGiven, wrong: []string{"many", ping}},
		"deadletters requeue": {right: natsGiven, wrong: []string{role, dsn, ping}},
		"deadletters purge":   {right: natsGiven, wrong: []string{role, "--older-than=-1h", ping}},
		"repair deployment":   {right: natsGiven, wrong: []string{"--partitions=5000", "--dedup-window=1ms", ping}},
		"repair message-log":  {right: natsGiven, wrong: []string{"--partition=-1", ping}},
		"repair wal":          {right: natsGiven, wrong: []string{"--partition=-1", ping}},
		"repair permissions":  {right: natsGiven, wrong: []string{"--nats-nkey=/no/such/file", ping}},
		"repair positions":    {right: natsGiven, wrong: []string{dsn, ping}},
		"repair table":        {right: natsGiven, wrong: []string{dsn, ping}},
		"migrate":             {wrong: []string{dsn, "--all"}},
		"version":             {wrong: []string{"--log-level=loud", "--log-format=xml"}},
	}
	parser, err := kong.New(new(cli), kong.Name("sendhouse"))
	require.NoError(t, err)
	leaves := parser.Model.Leaves(true)
	require.Len(t, leaves, len(commands))
	for _, leaf := range leaves {
		name := strings.TrimPrefix(leaf.FullPath(), "sendhouse ")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command, known := commands[name]
			require.True(t, known, "the command is missing above")
			addr, accepted := countConnections(t)
			dir := t.TempDir()
			args := strings.Fields(name)
			for _, arg := range append(command.right, command.wrong...) {
				args = append(args, strings.ReplaceAll(arg, "ADDR", addr))
			}
			run := exec.CommandContext(t.Context(), binary, args...)
			run.Dir = dir
			output, err := run.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, string(output))
			require.Equal(t, 2, exit.ExitCode(), string(output))
			for _, wrong := range append(command.wrong, command.missing) {
				flag, _, _ := strings.Cut(wrong, "=")
				require.Contains(t, string(output), flag, string(output))
			}
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries, "nothing is written")
			require.Zero(t, accepted.Load(), "nothing is connected")
		})
	}
}

// countConnections listens, and counts.
func countConnections(t *testing.T) (addr string, accepted *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted = new(atomic.Int64)
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			accepted.Add(1)
			if err == nil {
				_ = conn.Close() // it has been counted
			}
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String(), accepted
}

const (
	// settingsPage lists every command and flag; see TestSettingsAreDocumented.
	settingsPage = "docs/reference/settings.md"
	// settingsMark begins the part of the page that is made from the command line.
	settingsMark = "<!-- From here on `make generate` writes this page. -->\n"
	// settingsVariable, set to "write", makes the test write the page.
	settingsVariable = "SETTINGS_PAGE"
)

// TestSettingsAreDocumented compares the page with the command line that it is made from.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	parsed, err := config.Parse([]string{"version"}, new(cli))
	require.NoError(t, err)
	text, err := os.ReadFile(settingsPage)
	require.NoError(t, err)
	head, _, found := strings.Cut(string(text), settingsMark)
	require.True(t, found, "%s has no line %s", settingsPage, settingsMark)
	want := head + settingsMark + describeSettings(parsed.Model.Node)
	if os.Getenv(settingsVariable) == "write" {
		require.NoError(t, os.WriteFile(settingsPage, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(text), "%s is out of date: run 'make generate'", settingsPage)
}

// describeSettings lists the commands, and each flag with the commands that have it. Flags of one name that differ
// between commands are listed apart.
func describeSettings(root *kong.Node) string {
	var commands, flags []string
	users := map[string][]string{} // commands, by the flag's entry
	var walk func(node *kong.Node, path string)
	walk = func(node *kong.Node, path string) {
		for _, flag := range node.Flags {
			if flag.Name == "help" || flag.Hidden {
				continue
			}
			entry := describeFlag(flag)
			if users[entry] == nil {
				flags = append(flags, entry)
			}
			users[entry] = append(users[entry], path)
		}
		for _, child := range node.Children {
			if child.Hidden {
				continue
			}
			name := strings.TrimSpace(path + " " + child.Name)
			commands = append(commands, wrapItem(fmt.Sprintf("`sendhouse %s`: %s", name, child.Help)))
			walk(child, name)
		}
	}
	walk(root, "")
	slices.Sort(flags)
	var b strings.Builder
	b.WriteString("\n## Commands\n\n" + strings.Join(commands, ""))
	b.WriteString("\n## Flags\n\n")
	for _, entry := range flags {
		of := "every command"
		if users[entry][0] != "" {
			of = "`" + strings.Join(users[entry], "`, `") + "`"
		}
		b.WriteString(wrapItem(strings.Replace(entry, "\x00", of, 1)))
	}
	return b.String()
}

// describeFlag is the entry of a flag, with \x00 in place of its commands.
func describeFlag(flag *kong.Flag) string {
	value := ""
	switch {
	case flag.Default != "":
		value = ", default `" + flag.Default + "`"
	case flag.IsBool():
	case flag.PlaceHolder != "":
		value = " `" + flag.PlaceHolder + "`"
	}
	return fmt.Sprintf("`--%s`%s (\x00): %s", flag.Name, value, flag.Help)
}

// wrapItem is text as an item of a list, in lines of at most 100 characters.
func wrapItem(text string) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Fields(text) {
		switch n := len([]rune(word)); {
		case i == 0:
			b.WriteString("- " + word)
			width = 2 + n
		case width+1+n > 100:
			b.WriteString("\n  " + word)
			width = 2 + n
		default:
			b.WriteString(" " + word)
			width += 1 + n
		}
	}
	b.WriteByte('\n')
	return b.String()
}
