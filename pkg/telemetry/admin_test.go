package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// bundle is a running admin listener with what it shows.
type bundle struct {
	url       string
	level     *slog.LevelVar
	registry  *prometheus.Registry
	readiness *lifecycle.Readiness
}

func setup(t *testing.T) bundle {
	t.Helper()
	b := bundle{
		level:     new(slog.LevelVar),
		registry:  telemetry.NewRegistry(telemetry.ReadBuild()),
		readiness: new(lifecycle.Readiness),
	}
	admin, err := telemetry.NewAdmin(telemetry.AdminConfig{AdminAddr: "127.0.0.1:0"}, telemetry.AdminDeps{
		Logger: slog.New(slog.DiscardHandler), Level: b.level, Registry: b.registry, Readiness: b.readiness,
	})
	require.NoError(t, err)
	require.Nil(t, admin.Addr())

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- admin.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	select {
	case <-admin.Ready():
	case err := <-done:
		require.NoError(t, err)
	}
	b.url = "http://" + admin.Addr().String()
	return b
}

// ask sends one request and returns the status, the content type and the body of the answer.
func (b bundle) ask(t *testing.T, method, path, body string, headers ...string) (status int, contentType, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(text)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sends := prometheus.NewCounter(prometheus.CounterOpts{Name: "sendhouse_test_sends_total", Help: "For the test."})
	b.registry.MustRegister(sends)
	sends.Add(3)

	status, contentType, body := b.ask(t, http.MethodGet, "/metrics", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, contentType, "text/plain")
	require.Contains(t, body, "sendhouse_test_sends_total 3")
	require.Contains(t, body, "sendhouse_build_info{")
	require.Contains(t, body, "go_goroutines ")
	require.Contains(t, body, "process_open_fds ")

	_, contentType, body = b.ask(t, http.MethodGet, "/metrics", "", "Accept", "application/openmetrics-text; version=1.0.0")
	require.Contains(t, contentType, "application/openmetrics-text")
	require.True(t, strings.HasSuffix(body, "# EOF\n"))
}

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var fault error
	b.readiness.Register("wal", func() error { return fault })

	status, _, body := b.ask(t, http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"ready":true,"checks":[{"name":"wal","ok":true}]}`, body)

	fault = errors.New("no connection")
	status, contentType, body := b.ask(t, http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "application/json", contentType)
	require.JSONEq(t, `{"ready":false,"checks":[{"name":"wal","ok":false,"error":"no connection"}]}`, body)

	status, _, body = b.ask(t, http.MethodGet, "/healthz", "")
	require.Equal(t, http.StatusOK, status, "a process that cannot serve is still alive")
	require.Equal(t, "ok\n", body)
}

func TestLogLevel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, _, body := b.ask(t, http.MethodGet, "/loglevel", "")
	require.JSONEq(t, `{"level":"info"}`, body)

	for in, want := range map[string]slog.Level{
		`{"level":"debug"}`: slog.LevelDebug,
		"warn":              slog.LevelWarn,
		" ERROR\n":          slog.LevelError,
		`{"level":"INFO"}`:  slog.LevelInfo,
	} {
		status, _, body := b.ask(t, http.MethodPut, "/loglevel", in)
		require.Equal(t, http.StatusOK, status, in)
		require.Equal(t, want, b.level.Level(), in)
		require.JSONEq(t, `{"level":"`+strings.ToLower(want.String())+`"}`, body)
	}

	b.level.Set(slog.LevelWarn)
	for _, in := range []string{"", "{}", "loud", `{"level":3}`, strings.Repeat("x", 2000)} {
		status, _, _ := b.ask(t, http.MethodPut, "/loglevel", in)
		require.Equal(t, http.StatusBadRequest, status, in)
	}
	require.Equal(t, slog.LevelWarn, b.level.Level())
	status, _, _ := b.ask(t, http.MethodPost, "/loglevel", "debug")
	require.Equal(t, http.StatusMethodNotAllowed, status)
}

func TestPprof(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for path, want := range map[string]string{
		"/debug/pprof":                   "goroutine",
		"/debug/pprof/":                  "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile:",
		"/debug/pprof/heap?debug=1":      "heap profile:",
		"/debug/pprof/cmdline":           "telemetry.test",
		"/debug/pprof/symbol":            "num_symbols",
	} {
		status, _, body := b.ask(t, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, status, path)
		require.Contains(t, body, want, path)
	}
	status, contentType, _ := b.ask(t, http.MethodGet, "/debug/pprof/trace?seconds=0.01", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "application/octet-stream", contentType)
}

// route is a method and a path of the admin listener.
type route struct{ method, path string }

// routes are all that the admin listener serves. Those below a wildcard are named by one of them.
func routes() []route {
	return []route{
		{http.MethodGet, "/metrics"}, {http.MethodGet, "/healthz"}, {http.MethodGet, "/readyz"}, {http.MethodGet, "/"}, {http.MethodGet, "/frontpage/state"}, {http.MethodPost, "/frontpage/api/message/send"},
		{http.MethodGet, "/loglevel"}, {http.MethodPut, "/loglevel"}, {http.MethodGet, "/debug/pprof"}, {http.MethodGet, "/debug/pprof/"}, {http.MethodGet, "/debug/pprof/heap"},
		{http.MethodGet, "/debug/pprof/cmdline"}, {http.MethodGet, "/debug/pprof/symbol"}, {http.MethodPost, "/debug/pprof/symbol"}, {http.MethodGet, "/debug/pprof/allocs"},
	}
}

// newAdmin makes an admin listener that is not run, with a front page.
func newAdmin(t *testing.T, addr config.Addr) *telemetry.Admin {
	t.Helper()
	front := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "front") })
	admin, err := telemetry.NewAdmin(telemetry.AdminConfig{AdminAddr: addr, Hosts: guard.Hosts{AllowedHosts: []string{"ops.example.org"}}}, telemetry.AdminDeps{
		Logger: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Registry: prometheus.NewRegistry(), Readiness: new(lifecycle.Readiness), Front: front,
	})
	require.NoError(t, err)
	return admin
}

// statusOf is what a client gets that asks from an address, for a host, with fields in the header.
func statusOf(t *testing.T, admin *telemetry.Admin, r route, from, host string, fields ...string) int {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), r.method, r.path, strings.NewReader("warn"))
	req.RemoteAddr, req.Host = from, host
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	admin.ServeHTTP(w, req)
	return w.Code
}

// TestWhoGetsWhat asks for each route as those may ask who should not get it: a page under a name of its own, a page of another origin,
// another machine.
func TestWhoGetsWhat(t *testing.T) {
	t.Parallel()
	admin := newAdmin(t, "0.0.0.0:5002")
	const here, there, host = "127.0.0.1:40000", "10.0.0.9:40000", "127.0.0.1:5002"
	public := []string{"/metrics", "/healthz", "/readyz"}
	for _, r := range routes() {
		for _, foreign := range []string{"evil.example", "evil.example:5002", "127.0.0.1.evil.example"} {
			require.Equal(t, http.StatusForbidden, statusOf(t, admin, r, here, foreign), r)
		}
		for _, fields := range [][]string{nil, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", "http://" + host}} {
			require.Less(t, statusOf(t, admin, r, here, host, fields...), 400, r)
		}
		for _, known := range []string{"localhost:5002", "[::1]:5002", "ops.example.org", "sendhouse-0:5002"} {
			require.Less(t, statusOf(t, admin, r, "[::1]:1", known), 400, r)
		}
		for _, fields := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"}, {"Origin", "null"}} {
			refused := statusOf(t, admin, r, here, host, fields...) == http.StatusForbidden
			require.Equal(t, r.path != "/" && !slices.Contains(public, r.path), refused, "%v %v", r, fields)
		}
		require.Equal(t, !slices.Contains(public, r.path), statusOf(t, admin, r, there, "10.0.0.1:5002") == http.StatusForbidden, r)
	}
}

// TestProfilesAreBounded: a profile takes at most a minute, and there is one at a time.
func TestProfilesAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{"profile", "trace", "heap", "goroutine"} {
		for _, seconds := range []string{"61", "1e9", "-1", "NaN", "x"} {
			status, _, body := b.ask(t, http.MethodGet, "/debug/pprof/"+path+"?seconds="+seconds, "")
			require.Equal(t, http.StatusBadRequest, status, seconds)
			require.Contains(t, body, "60")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // until it is the one that is taken
			first, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/debug/pprof/goroutine?seconds=60", http.NoBody)
			if err != nil {
				return
			}
			if resp, err := http.DefaultClient.Do(first); err == nil {
				_ = resp.Body.Close()
			}
		}
	}()
	says := func(status int) func(context.Context) error {
		return func(context.Context) error {
			if got, _, body := b.ask(t, http.MethodGet, "/debug/pprof/heap", ""); got != status {
				return fmt.Errorf("%d %s", got, body)
			}
			return nil
		}
	}
	testkit.WaitFor(t, time.Minute, "the first to begin", says(http.StatusServiceUnavailable))
	for _, path := range []string{"profile?seconds=1", "trace?seconds=1", "goroutine?debug=2"} {
		status, _, body := b.ask(t, http.MethodGet, "/debug/pprof/"+path, "")
		require.Equal(t, http.StatusServiceUnavailable, status, path)
		require.Contains(t, body, "another profile")
	}
	status, _, _ := b.ask(t, http.MethodGet, "/debug/pprof/", "")
	require.Equal(t, http.StatusOK, status, "the index is no profile")
	cancel()
	<-ended
	testkit.WaitFor(t, time.Minute, "the first to end", says(http.StatusOK))
}

func TestUnknownPath(t *testing.T) {
	t.Parallel()
	status, _, _ := setup(t).ask(t, http.MethodGet, "/message/send", "")
	require.Equal(t, http.StatusNotFound, status)
}

func TestNewAdminReportsEverything(t *testing.T) {
	t.Parallel()
	_, err := telemetry.NewAdmin(telemetry.AdminConfig{}, telemetry.AdminDeps{})
	for _, part := range []string{"address", "logger", "log level", "registry", "readiness"} {
		require.ErrorContains(t, err, part)
	}
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	other, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()

	admin, err := telemetry.NewAdmin(telemetry.AdminConfig{AdminAddr: config.Addr(other.Addr().String())}, telemetry.AdminDeps{
		Logger: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar),
		Registry: prometheus.NewRegistry(), Readiness: new(lifecycle.Readiness),
	})
	require.NoError(t, err)
	err = admin.Run(t.Context())
	require.ErrorContains(t, err, other.Addr().String())
	require.ErrorContains(t, err, "address already in use")
	require.ErrorContains(t, err, "--admin-addr")
}

func TestLoggerFormatsAndLevels(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{
		telemetry.LogText: `level=INFO msg=shown partition=3`,
		telemetry.LogJSON: `"level":"INFO","msg":"shown","partition":3`,
	} {
		var out bytes.Buffer
		log, level, err := telemetry.NewLogger(telemetry.LogConfig{LogFormat: format, LogLevel: slog.LevelInfo}, &out)
		require.NoError(t, err)
		log.Debug("hidden")
		log.Info("shown", "partition", 3)
		level.Set(slog.LevelDebug)
		log.Debug("now it is")
		require.Contains(t, out.String(), want)
		require.NotContains(t, out.String(), "hidden")
		require.Contains(t, out.String(), "now it is")
	}
	_, _, err := telemetry.NewLogger(telemetry.LogConfig{LogFormat: "xml"}, io.Discard)
	require.ErrorContains(t, err, `"xml"`)
}

// TestFlags has the command line read what is embedded into it.
func TestFlags(t *testing.T) {
	t.Parallel()
	var cli struct {
		telemetry.LogConfig
		telemetry.AdminConfig
	}
	_, err := config.Parse([]string{"--log-level=debug", "--log-format=json"}, &cli)
	require.NoError(t, err)
	require.Equal(t, slog.LevelDebug, cli.LogLevel)
	require.Equal(t, telemetry.LogJSON, cli.LogFormat)
	require.Equal(t, config.Addr("127.0.0.1:5002"), cli.AdminAddr)

	_, err = config.Parse([]string{"--log-level=loud"}, &cli)
	require.ErrorContains(t, err, "--log-level")
}
