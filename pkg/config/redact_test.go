package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
)

func TestRedactURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                                  "",
		"nats://localhost:4222":                             "nats://localhost:4222",
		"localhost:4222,other:4222":                         "localhost:4222,other:4222",
		"nats://u:hunter2@localhost:4222":                   "nats://[redacted]@localhost:4222",
		"nats://hunter2@localhost":                          "nats://[redacted]@localhost",
		"u:hunter2@localhost":                               "[redacted]@localhost",
		"tls://u:hunter2@[::1]:4222":                        "tls://[redacted]@[::1]:4222",
		"wss://u:hunter2@a:1, ws://t@b,c":                   "wss://[redacted]@a:1, ws://[redacted]@b,c",
		"nats://a:1,nats://u:hunter2@b:2":                   "nats://a:1,nats://[redacted]@b:2",
		"nats://u:hunter2@a,u:hunter2@b":                    "nats://[redacted]@b", // too much rather than too little
		"http://h:8123/db?compress=none":                    "http://h:8123/db?compress=none",
		"http://h/db?x=1&password=hunter2":                  "http://h/db?x=1&password=[redacted]",
		"http://u:hunter2@h/?PASSWORD=p@s":                  "http://[redacted]@h/?PASSWORD=[redacted]",
		"http://h/?pass%77ord=hunter2&x=1":                  "http://h/?pass%77ord=[redacted]",
		"http://h/?access_token=hunter2":                    "http://h/?access_token=[redacted]",
		"http://h/?http_proxy=http%3A%2F%2Fu%3Ahunter2%40p": "http://h/?http_proxy=[redacted]",
	} {
		require.Equal(t, want, config.RedactURL(in), in)
	}
}

// Every character that could end a part of a URL too early stands in a password, in every form that a URL has, escaped or not.
func TestRedactedInEveryForm(t *testing.T) {
	t.Parallel()
	for c := rune(1); c < 0x180; c++ {
		password := "hunter2" + string(c) + "hunter2"
		for _, form := range []string{
			"nats://user:%s@host:4222", "nats://%s@host:4222", "nats://%s:%[1]s@host", "user:%s@host:4222", "%s@host", "tls://a:1,tls://user:%s@b:2",
			"nats://user:%s@a:1,nats://user:%[1]s@b:2", "ws://user:%s@host", "clickhouse://user:%s@a:9000,b:9000/db?dial_timeout=1s",
			"http://host:8123/db?username=u&password=%s", "http://host:8123?password=%s", "https://u:%s@host/db?password=%[1]s&x=1",
			"nats://user:%s@host:port", "nats://user:%s@[::1", "nats://user:%%zz%s@host",
		} {
			text := fmt.Sprintf(form, password)
			require.NotContains(t, config.RedactURL(text), "hunter2", text)
			if strings.Contains(text, "://") && strings.TrimSpace(string(c)) != "" {
				require.NotContains(t, config.RedactText("cannot reach "+text+": refused"), "hunter2", text)
				require.NotContains(t, config.RedactText(fmt.Sprintf("parse %q: refused", text)), "hunter2", text)
			}
		}
	}
}

func TestRedactTextLeavesTheRest(t *testing.T) {
	t.Parallel()
	require.Equal(t, "of user@host, the channel a@b", config.RedactText("of user@host, the channel a@b"))
	require.Equal(t, `parse "nats://[redacted]@h:x": invalid port; a@b`, config.RedactText(`parse "nats://u:p@h:x": invalid port; a@b`))
}

func TestRedactArguments(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{
		"sendhouse", "up", "--nats-url", "[redacted]@h", "--nats-url=nats://[redacted]@h", "--clickhouse-dsn=http://h/?password=[redacted]",
		"--clickhouse-dsn", "tcp://[redacted]@h", "-f", "a@b", "--replay-channel=1/a@b", "--target", "http://h",
	}, config.RedactArguments([]string{
		"sendhouse", "up", "--nats-url", "u:hunter2@h", "--nats-url=nats://hunter2@h", "--clickhouse-dsn=http://h/?password=hunter2",
		"--clickhouse-dsn", "tcp://u:hunter2@h", "-f", "a@b", "--replay-channel=1/a@b", "--target", "http://h",
	}))
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"nats://host", "u:p@host:1", "nats://u:p%2Fw@host/", "http://u:p@h/db?password=a@b", "http://h:1?x=a@b&y=c"} {
		require.NoError(t, config.CheckURL(good), good)
	}
	for _, bad := range []string{"nats://u:hunter2/2@host", "nats://u:hunter2#2@host", "nats://u:hunter2?2@host", "u:hunter2/@host", "http://u:hunter2?a=b&c@h/db"} {
		err := config.CheckURL(bad)
		require.ErrorContains(t, err, "%2F", bad)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestExposedCredentials(t *testing.T) {
	t.Setenv("SENDHOUSE_CLICKHOUSE_DSN", "http://u:hunter2@h")
	var cli struct {
		NATSURL       string `name:"nats-url"`
		ClickHouseDSN string `name:"clickhouse-dsn"`
		Person        string
	}
	exposed := func(args ...string) (flags []string) {
		ctx, err := config.Parse(args, &cli, kong.Name("x"))
		require.NoError(t, err)
		for _, found := range config.ExposedCredentials(ctx) {
			require.Len(t, found.Envs, 1)
			flags = append(flags, found.Flag+" "+found.Envs[0])
		}
		return flags
	}
	require.Empty(t, exposed("--nats-url=nats://h", "--person=a@b"))
	require.Equal(t, []string{"--nats-url SENDHOUSE_NATS_URL"}, exposed("--nats-url=token@h"))
	require.Equal(t, []string{"--clickhouse-dsn SENDHOUSE_CLICKHOUSE_DSN"}, exposed("--clickhouse-dsn=http://h/?password=hunter2"))
}
