package telemetry_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/telemetry"
)

func TestKeepLines(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	plain, level, err := telemetry.NewLogger(telemetry.LogConfig{LogLevel: slog.LevelInfo, LogFormat: telemetry.LogJSON}, &text)
	require.NoError(t, err)
	log, recent := telemetry.KeepLines(plain)
	require.Empty(t, recent.Lines())

	log.Info("not kept")
	log.Warn("one", "time", 1, "error", "a b")
	log.With("component", "writer").WithGroup("g").Error("two", "key", 1)
	level.Set(slog.LevelError)
	log.Warn("not kept either")
	log.Error(strings.Repeat("ü", 5000), "stack", strings.Repeat("x", 1<<20)) //nolint:sloglint // a long one

	lines := recent.Lines()
	require.Len(t, lines, 3)
	require.Less(t, len(lines[0].Message)+len(lines[0].Attrs), 5000)
	require.True(t, strings.HasSuffix(lines[0].Message, "ü…"))
	require.Equal(t, "ERROR", lines[1].Level)
	require.Equal(t, "two", lines[1].Message)
	require.Equal(t, "component=writer g.key=1", lines[1].Attrs)
	require.Equal(t, "WARN", lines[2].Level)
	require.Equal(t, `error="a b"`, strings.TrimPrefix(lines[2].Attrs, "time=1 "))
	require.False(t, lines[2].Time.IsZero())
	require.Contains(t, text.String(), `"msg":"not kept"`, "the log itself is as before")

	for n := range 120 {
		log.Error(fmt.Sprint(n)) //nolint:sloglint // numbered on purpose
	}
	lines = recent.Lines()
	require.Len(t, lines, 50)
	require.Equal(t, "119", lines[0].Message)
	require.Equal(t, "70", lines[49].Message)
}

func TestCredentialsAreNotLogged(t *testing.T) {
	t.Parallel()
	for _, format := range []string{telemetry.LogText, telemetry.LogJSON} {
		var text bytes.Buffer
		plain, _, err := telemetry.NewLogger(telemetry.LogConfig{LogFormat: format}, &text)
		require.NoError(t, err)
		log, recent := telemetry.KeepLines(plain)
		const url = "nats://user:hunter2@host:4222"
		log.With("server", url).WithGroup("group").Error("no "+url, "url", url, "error", fmt.Errorf("dial %s: %w", url, io.EOF), "other", io.EOF)
		shown := fmt.Sprint(text.String(), recent.Lines())
		require.NotContains(t, shown, "hunter2")
		require.Contains(t, shown, "EOF")
		require.Equal(t, 8, strings.Count(shown, "nats://[redacted]@host:4222"), "four each in the log and in what is kept: %s", shown)
	}
}
