package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// serve is a command as the roles have them, with one field of each kind.
type serve struct {
	APIAddr    config.Addr       `help:"Where to listen." default:"127.0.0.1:5001"`
	Partitions int               `help:"How many." default:"4"`
	BodyMax    config.ByteSize   `help:"Largest body." default:"1MiB"`
	Flush      time.Duration     `help:"Longest wait." default:"1s"`
	Schema     string            `help:"Which table." enum:"full,reduced" default:"full"`
	Tokens     []string          `help:"Accepted tokens."`
	Labels     map[string]string `help:"More labels."`
	Verbose    bool              `help:"Say more."`
	Password   config.Secret     `help:"For the server."`
}

type audit struct {
	Depth int `help:"How deep." default:"1"`
}

type command struct {
	Config config.File `help:"Settings file." placeholder:"PATH"`
	Serve  serve       `cmd:"" help:"Serve."`
	Audit  audit       `cmd:"" help:"Audit."`
}

// file writes a configuration file and gives its path.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sendhouse.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// parse runs the parser on args, with --config in front if there is text for a file.
func parse(t *testing.T, text string, args ...string) (command, error) {
	t.Helper()
	if text != "" {
		args = append([]string{"--config", file(t, text)}, args...)
	}
	var cli command
	_, err := config.Parse(args, &cli)
	return cli, err
}

// TestPrecedence has each pair of places once, and all of them together. It sets the environment, so it is not parallel.
func TestPrecedence(t *testing.T) {
	const fromFile = "partitions: 16"
	tests := []struct {
		name string
		flag string
		env  string
		file string
		want int
	}{
		{name: "default alone", want: 4},
		{name: "file over default", file: fromFile, want: 16},
		{name: "environment over default", env: "8", want: 8},
		{name: "flag over default", flag: "2", want: 2},
		{name: "environment over file", env: "8", file: fromFile, want: 8},
		{name: "flag over file", flag: "2", file: fromFile, want: 2},
		{name: "flag over environment", flag: "2", env: "8", want: 2},
		{name: "flag over all", flag: "2", env: "8", file: fromFile, want: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.env != "" {
				t.Setenv("SENDHOUSE_PARTITIONS", tt.env)
			}
			args := []string{"serve"}
			if tt.flag != "" {
				args = append(args, "--partitions", tt.flag)
			}
			cli, err := parse(t, tt.file, args...)
			require.NoError(t, err)
			require.Equal(t, tt.want, cli.Serve.Partitions)
		})
	}
}

func TestFileNamedByEnvironment(t *testing.T) {
	t.Setenv("SENDHOUSE_CONFIG", file(t, "partitions: 16"))
	cli, err := parse(t, "", "serve")
	require.NoError(t, err)
	require.Equal(t, 16, cli.Serve.Partitions)
}

func TestFlagNamesAnotherFileThanEnvironment(t *testing.T) {
	t.Setenv("SENDHOUSE_CONFIG", file(t, "partitions: 16"))
	cli, err := parse(t, "partitions: 32", "serve")
	require.NoError(t, err)
	require.Equal(t, 32, cli.Serve.Partitions)
}

func TestEmptyEnvironmentVariableCountsAsSet(t *testing.T) {
	t.Setenv("SENDHOUSE_PASSWORD", "")
	cli, err := parse(t, "password: hunter2", "serve")
	require.NoError(t, err)
	require.Empty(t, cli.Serve.Password.Reveal())
}

func TestBadEnvironmentVariable(t *testing.T) {
	t.Setenv("SENDHOUSE_PARTITIONS", "many")
	_, err := parse(t, "partitions: 16", "serve")
	require.ErrorContains(t, err, "SENDHOUSE_PARTITIONS")
	require.ErrorContains(t, err, "many")
}

func TestUnknownEnvironmentVariableIsLeftAlone(t *testing.T) {
	t.Setenv("SENDHOUSE_SERVICE_HOST", "10.0.0.1") // as Kubernetes sets it
	_, err := parse(t, "", "serve")
	require.NoError(t, err)
}

func TestFileOfEveryKind(t *testing.T) {
	t.Parallel()
	cli, err := parse(t, `
# A comment, and a key of another command: one file serves them all.
depth: 3
api-addr: "[::1]:6001"
partitions: 16
body-max: 2MiB
flush: 250ms
schema: reduced
tokens: [one, "two, with a comma"]
labels:
  zone: a
  note: b=c
verbose: true
password: 0123
`, "serve")
	require.NoError(t, err)
	require.Equal(t, config.Addr("[::1]:6001"), cli.Serve.APIAddr)
	require.Equal(t, 16, cli.Serve.Partitions)
	require.Equal(t, 2*config.MiB, cli.Serve.BodyMax)
	require.Equal(t, 250*time.Millisecond, cli.Serve.Flush)
	require.Equal(t, "reduced", cli.Serve.Schema)
	require.Equal(t, []string{"one", "two, with a comma"}, cli.Serve.Tokens)
	require.Equal(t, map[string]string{"zone": "a", "note": "b=c"}, cli.Serve.Labels)
	require.True(t, cli.Serve.Verbose)
	require.Equal(t, "0123", cli.Serve.Password.Reveal(), "a text is taken as it is written")
}

// A command line can be read by every user of the machine.
func TestSecretIsNotTakenFromTheCommandLine(t *testing.T) {
	_, err := parse(t, "", "serve", "--password=hunter2")
	require.ErrorContains(t, err, "--password: a secret must not stand on a command line")
	require.ErrorContains(t, err, "SENDHOUSE_PASSWORD")
	require.NotContains(t, err.Error(), "hunter2")

	t.Setenv("SENDHOUSE_PASSWORD", "hunter2")
	cli, err := parse(t, "", "serve")
	require.NoError(t, err)
	require.Equal(t, "hunter2", cli.Serve.Password.Reveal())
}

func TestFileWithNothingInIt(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"empty": "\n", "comment": "# nothing yet\n", "null": "~\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cli, err := parse(t, text, "serve")
			require.NoError(t, err)
			require.Equal(t, 4, cli.Serve.Partitions)
		})
	}
}

func TestFileErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		file string
		want []string // all of these are in the error
	}{
		{"unknown key", "partition: 3", []string{"sendhouse.yaml:1: partition: unknown key", `did you mean "partitions"?`}},
		{"snake case", "# one\napi_addr: :1", []string{"sendhouse.yaml:2: api_addr: unknown key", `did you mean "api-addr"?`}},
		{"nothing near", "quartz-crystal: 3", []string{"quartz-crystal: unknown key"}},
		{"the file itself", "config: other.yaml", []string{"config: unknown key"}},
		{"help", "help: true", []string{"help: unknown key"}},
		{"several at once", "partition: 3\nschema: big\n", []string{"sendhouse.yaml:1: partition", "sendhouse.yaml:2: schema"}},
		{"number wanted", "partitions: many", []string{"sendhouse.yaml:1: partitions: ", "many"}},
		{"number of another command", "depth: deep", []string{"sendhouse.yaml:1: depth: ", "deep"}},
		{"duration wanted", "flush: 5 parsecs", []string{"flush: ", "5 parsecs"}},
		{"bool wanted", "verbose: perhaps", []string{"verbose: ", "perhaps"}},
		{"size wanted", "body-max: 3 sheep", []string{"body-max: ", "3 sheep"}},
		{"address wanted", "api-addr: http://localhost:1", []string{"api-addr: ", "is a URL"}},
		{"enum", "schema: big", []string{"schema: must be one of full, reduced", `"big"`}},
		{"list for one value", "partitions: [1, 2]", []string{"partitions: wants one value, but has a list"}},
		{"section", "serve:\n  partitions: 3", []string{"sendhouse.yaml:1: serve: unknown key"}},
		{"mapping for one value", "partitions: {a: 1}", []string{"partitions: wants one value", "flat"}},
		{"nested list", "tokens: [[a]]", []string{"tokens: wants a list of plain values"}},
		{"nested mapping", "labels: {a: {b: c}}", []string{`labels: wants a plain value for "a"`}},
		{"null", "partitions:", []string{"partitions: has no value"}},
		{"twice", "depth: 1\ndepth: 2", []string{"sendhouse.yaml:2: depth: is given twice, first on line 1"}},
		{"list as the whole", "- partitions", []string{"sendhouse.yaml:1: want lines of the form"}},
		{"not YAML", "partitions: [", []string{"sendhouse.yaml: "}},
		{"two documents", "depth: 1\n---\ndepth: 2\n", []string{"more than one YAML document"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, tt.file, "serve")
			require.Error(t, err)
			for _, part := range tt.want {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func TestUnknownKeyIsTyped(t *testing.T) {
	t.Parallel()
	_, err := parse(t, "partition: 3", "serve")
	require.ErrorIs(t, err, config.ErrUnknownKey)
	var keyErr *config.KeyError
	require.ErrorAs(t, err, &keyErr)
	require.Equal(t, "partition", keyErr.Key)
	require.Equal(t, 1, keyErr.Line)
}

func TestUnknownKeyGoesBeforeWhatItLedTo(t *testing.T) {
	t.Parallel()
	var cli struct {
		Config config.File `help:"Settings file."`
		Serve  struct {
			NatsURL string `required:"" help:"Where."`
		} `cmd:""`
	}
	_, err := config.Parse([]string{"--config", file(t, "nats-ulr: nats://localhost"), "serve"}, &cli)
	require.ErrorIs(t, err, config.ErrUnknownKey)
	require.ErrorContains(t, err, `did you mean "nats-url"?`)

	_, err = config.Parse([]string{"--config", file(t, "nats-url: nats://localhost"), "serve"}, &cli)
	require.NoError(t, err, "a required flag may stand in the file")
}

func TestFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	var cli command
	_, err := config.Parse([]string{"--config", "/does/not/exist.yaml", "serve"}, &cli)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "/does/not/exist.yaml")

	big := file(t, "# "+string(bytes.Repeat([]byte("x"), 1<<20)))
	_, err = config.Parse([]string{"--config", big, "serve"}, &cli)
	require.ErrorContains(t, err, "larger than 1MiB")
}

func TestCommandLineErrors(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"no command":      {},
		"unknown command": {"dance"},
		"unknown flag":    {"serve", "--partition", "3"},
		"bad value":       {"serve", "--partitions", "many"},
		"bad enum":        {"serve", "--schema", "big"},
		"trailing word":   {"serve", "now"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, "", args...)
			var parseErr *kong.ParseError
			require.ErrorAs(t, err, &parseErr)
		})
	}
}

func TestHelpIsWrittenAndDoesNotExit(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}, {"serve", "--partitions=7", "-h"}} {
		var out, errOut bytes.Buffer
		var cli command
		ctx, err := config.Parse(args, &cli, kong.Writers(&out, &errOut))
		require.ErrorIs(t, err, config.ErrHelp)
		require.Nil(t, ctx)
		require.Contains(t, out.String(), "Usage: sendhouse")
		require.Empty(t, errOut.String())
	}
}

func TestHelpNamesTheEnvironment(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var cli command
	_, err := config.Parse([]string{"serve", "--help"}, &cli, kong.Writers(&out, &out))
	require.ErrorIs(t, err, config.ErrHelp)
	require.Contains(t, out.String(), "$SENDHOUSE_API_ADDR")
	require.Contains(t, out.String(), "$SENDHOUSE_CONFIG")
}

func TestPanicInAHookIsNotTakenForHelp(t *testing.T) {
	t.Parallel()
	bug := errors.New("a bug")
	var cli command
	require.PanicsWithError(t, "a bug", func() {
		_, _ = config.Parse([]string{"serve"}, &cli, kong.WithAfterApply(func() error { panic(bug) }))
	})
}

func TestBadStructIsAnError(t *testing.T) {
	t.Parallel()
	var cli struct {
		Size chan int `help:"No flag can hold this."`
	}
	_, err := config.Parse(nil, &cli)
	require.ErrorContains(t, err, "build the command line")
}
