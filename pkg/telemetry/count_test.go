package telemetry_test

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/telemetry"
)

func TestCountLines(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	plain, level, err := telemetry.NewLogger(telemetry.LogConfig{LogLevel: slog.LevelWarn, LogFormat: telemetry.LogJSON}, &text)
	require.NoError(t, err)
	reg := prometheus.NewRegistry()
	log := telemetry.CountLines(plain, reg)
	log.Info("not shown")
	log.Warn("one")
	log.With("component", "writer").Warn("two")
	log.WithGroup("g").Error("three", "key", 1)
	level.Set(slog.LevelError)
	log.Warn("not shown either")

	families, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	have := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		have[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	require.Equal(t, map[string]float64{"warn": 2, "error": 1}, have)
	require.Contains(t, text.String(), `"component":"writer"`)
	require.Contains(t, text.String(), `"g":{"key":1}`)
	require.NotContains(t, text.String(), "not shown")

	require.Panics(t, func() { telemetry.CountLines(plain, reg) }, "twice is a mistake")
}
