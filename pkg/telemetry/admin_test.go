package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
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

// ask sends one request and gives the status, the content type and the body of the answer.
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
