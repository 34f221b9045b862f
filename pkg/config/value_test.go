package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/sendhouse/sendhouse/pkg/config"
)

func TestByteSize(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want config.ByteSize
		text string // how it is written again
	}{
		{"0", 0, "0B"},
		{"65536", 64 * config.KiB, "64KiB"},
		{"65537", 65537, "65537B"},
		{"12B", 12, "12B"},
		{"512KiB", 512 * config.KiB, "512KiB"},
		{"512 kib", 512 * config.KiB, "512KiB"},
		{" 16MiB ", 16 * config.MiB, "16MiB"},
		{"64MB", 64_000_000, "64MB"},
		{"64kB", 64_000, "64kB"},
		{"3GB", 3_000_000_000, "3GB"},
		{"2GiB", 2 * config.GiB, "2GiB"},
		{"7TB", 7_000_000_000_000, "7TB"},
		{"1TiB", config.TiB, "1TiB"},
		{"8388607TiB", 8388607 * config.TiB, "8388607TiB"},
		{"9223372036854775807", 9223372036854775807, "9223372036854775807B"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			t.Parallel()
			var got config.ByteSize
			require.NoError(t, got.UnmarshalText([]byte(tt.in)))
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.text, got.String())

			var again config.ByteSize
			text, err := got.MarshalText()
			require.NoError(t, err)
			require.NoError(t, again.UnmarshalText(text))
			require.Equal(t, got, again)
		})
	}
}

func TestByteSizeErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"":                    "want a whole number and a unit",
		"-1":                  "want a whole number and a unit",
		"MiB":                 "want a whole number and a unit",
		"1.5GiB":              `".5GiB" is not a unit`,
		"3 sheep":             `"sheep" is not a unit`,
		"1M":                  `"M" is not a unit`,
		"8388608TiB":          "larger than a size can be",
		"9223372036854775808": "larger than a size can be",
	}
	for in, want := range tests {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			var got config.ByteSize
			err := got.UnmarshalText([]byte(in))
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, fmt.Sprintf("%q", in))
		})
	}
}

func TestAddr(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"127.0.0.1:5001", ":5001", "localhost:0", "[::1]:65535", "nats-0.nats.svc:4222"} {
		var got config.Addr
		require.NoError(t, got.UnmarshalText([]byte(in)))
		require.Equal(t, in, got.String())
	}
	for in, want := range map[string]string{
		"":                      "missing port",
		"localhost":             "missing port",
		"5001":                  "missing port",
		"::1:5001":              "too many colons",
		"localhost:http":        "port must be a number",
		"localhost:65536":       "port must be a number",
		"localhost:-1":          "port must be a number",
		"local host:1":          "not a host name",
		"user@host:1":           "not a host name",
		"http://127.0.0.1:5001": "is a URL",
	} {
		var got config.Addr
		require.ErrorContains(t, got.UnmarshalText([]byte(in)), want)
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	const text = "hunter2"
	var secret config.Secret
	require.NoError(t, secret.UnmarshalText([]byte(text)))
	require.Equal(t, text, secret.Reveal())
	require.False(t, secret.IsZero())

	type holder struct {
		Public config.Secret
		hidden config.Secret
	}
	h := holder{secret, secret}
	shown := map[string]string{"String": secret.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		shown["fmt "+verb] = fmt.Sprintf(verb, secret)
		shown["fmt pointer "+verb] = fmt.Sprintf(verb, &secret)
		shown["fmt struct "+verb] = fmt.Sprintf(verb, h)
	}
	asJSON, err := json.Marshal(h)
	require.NoError(t, err)
	shown["json"] = string(asJSON)
	asYAML, err := yaml.Marshal(map[string]any{"secret": secret})
	require.NoError(t, err)
	shown["yaml"] = string(asYAML)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("text", "secret", secret, "holder", h)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "secret", secret, "holder", h)
	shown["slog"] = log.String()

	for how, out := range shown {
		require.NotContains(t, out, text, how)
		require.NotContains(t, out, fmt.Sprintf("%x", text), how)
	}
	require.Contains(t, shown["json"], "[redacted]")
	require.Contains(t, shown["slog"], "[redacted]")
	require.Contains(t, shown["yaml"], "[redacted]")
}

func TestEmptySecretShowsThatItIsEmpty(t *testing.T) {
	t.Parallel()
	var unset config.Secret
	require.True(t, unset.IsZero())
	require.Empty(t, unset.Reveal())
	require.Empty(t, unset.String())
	require.True(t, config.NewSecret("").IsZero())
}
