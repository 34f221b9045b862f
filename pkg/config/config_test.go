package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// file writes a configuration file and returns its path.
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

//nolint:paralleltest // it sets the environment
func TestEmptyEnvironmentVariableCountsAsAbsent(t *testing.T) {
	for _, name := range []string{"SENDHOUSE_PASSWORD", "SENDHOUSE_PARTITIONS", "SENDHOUSE_VERBOSE", "SENDHOUSE_CONFIG", "SENDHOUSE_NO_SUCH_THING"} {
		t.Setenv(name, "")
	}
	require.Equal(t, []string{"SENDHOUSE_CONFIG", "SENDHOUSE_NO_SUCH_THING", "SENDHOUSE_PARTITIONS", "SENDHOUSE_PASSWORD", "SENDHOUSE_VERBOSE"}, config.EmptyVariables())
	cli, err := parse(t, "password: hunter2\nverbose: true", "serve")
	require.NoError(t, err)
	require.Equal(t, "hunter2", cli.Serve.Password.Reveal(), "the file's")
	require.True(t, cli.Serve.Verbose, "the file's")
	require.Equal(t, 4, cli.Serve.Partitions, "the default")
}

func TestBadEnvironmentVariable(t *testing.T) {
	t.Setenv("SENDHOUSE_PARTITIONS", "many")
	_, err := parse(t, "partitions: 16", "serve")
	require.ErrorContains(t, err, "SENDHOUSE_PARTITIONS")
	require.ErrorContains(t, err, "many")
}

func TestUnknownEnvironmentVariables(t *testing.T) {
	tests := []struct {
		name string
		set  string
		want string // empty: nothing is wrong with it
	}{
		{"of this command", "SENDHOUSE_PARTITIONS=3", ""},
		{"of another command", "SENDHOUSE_DEPTH=3", ""},
		{"of the embedded engine", "SENDHOUSE_CHDB_LIB=/usr/lib/libchdb.so", ""},
		{"of another program", "SENDHOUSEKEEPER_DEPHT=3", ""},
		{"misspelt", "SENDHOUSE_PARTITION=3", "environment: SENDHOUSE_PARTITION: unknown variable (did you mean SENDHOUSE_PARTITIONS?)"},
		{"misspelt, of another command", "SENDHOUSE_DEPHT=3", "did you mean SENDHOUSE_DEPTH?"},
		{"in lower case", "SENDHOUSE_partitions=3", "did you mean SENDHOUSE_PARTITIONS?"},
		{"nothing near", "SENDHOUSE_QUARTZ_CRYSTAL=3", "SENDHOUSE_QUARTZ_CRYSTAL: unknown variable (remove it"},
		{"a port that is no URL", "SENDHOUSE_API_PORT=5001", "SENDHOUSE_API_PORT: unknown variable"},
		// As Kubernetes sets them for the Services sendhouse and sendhouse-ingest, with a port named http.
		{"Service's host", "SENDHOUSE_SERVICE_HOST=10.0.0.1", ""},
		{"Service's port", "SENDHOUSE_SERVICE_PORT=5001", ""},
		{"Service's named port", "SENDHOUSE_INGEST_SERVICE_PORT_HTTP=5001", ""},
		{"link", "SENDHOUSE_PORT=tcp://10.0.0.1:5001", ""},
		{"link to a port", "SENDHOUSE_INGEST_PORT_5001_TCP=tcp://10.0.0.1:5001", ""},
		{"link's protocol", "SENDHOUSE_PORT_5001_TCP_PROTO=tcp", ""},
		{"link's port", "SENDHOUSE_PORT_5001_TCP_PORT=5001", ""},
		{"link's address", "SENDHOUSE_PORT_5001_TCP_ADDR=10.0.0.1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name, value, _ := strings.Cut(tt.set, "=")
			t.Setenv(name, value)
			_, err := parse(t, "", "serve")
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, config.ErrUnknownVariable)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestUnknownEnvironmentVariablesAreToldTogetherWithoutTheirValues(t *testing.T) {
	t.Setenv("SENDHOUSE_PASSWRD", "hunter2")
	t.Setenv("SENDHOUSE_APIADDR", "hunter2")
	_, err := parse(t, "partitions: many", "serve")
	require.ErrorContains(t, err, "did you mean SENDHOUSE_PASSWORD?")
	require.ErrorContains(t, err, "did you mean SENDHOUSE_API_ADDR?")
	require.NotContains(t, err.Error(), "hunter2")

	var out bytes.Buffer
	_, err = config.Parse([]string{"serve", "--help"}, new(command), kong.Writers(&out, &out))
	require.ErrorIs(t, err, config.ErrHelp, "the help has the names to choose from")
}

// Go's literals are octal, hexadecimal or binary by their prefix; settings are decimal, wherever they stand.
//
//nolint:paralleltest // it sets the environment
func TestNumbersAreDecimal(t *testing.T) {
	tests := []struct {
		field, text string
		want        string // in the error; empty: it is taken
	}{
		{"partitions", "16", ""},
		{"partitions", "+16", ""},
		{"partitions", "-1", ""},
		{"partitions", "0", ""},
		{"partitions", "010", "write 10"},
		{"partitions", "-010", "write -10"},
		{"partitions", "0x10", "is not a whole number"},
		{"partitions", "0o10", "is not a whole number"},
		{"partitions", "0b10", "is not a whole number"},
		{"partitions", "1_000", "is not a whole number"},
		{"partitions", "1e3", "is not a whole number"},
		{"partitions", " 16", "is not a whole number"},
		{"partitions", "١٦", "is not a whole number"},
		{"partitions", "9223372036854775808", "out of range"},
		{"type", "255", ""},
		{"type", "256", "out of range"},
		{"type", "-1", "negative"},
		{"type", "0377", "write 377"},
		{"some", "1,010", "write 10"},
		{"rate", "0.5", ""},
		{"rate", ".5", ""},
		{"rate", "1e3", ""},
		{"rate", "00.5", "write .5"},
		{"rate", "0x1p4", "is not a number"},
		{"rate", "1_000", "is not a number"},
		{"rate", "inf", "is not a number"},
		{"rate", "NaN", "is not a number"},
		{"rate", "1e999", "out of range"},
		{"size", "010KiB", "write 10"},
		{"size", "0x10", "is not a size"},
	}
	for _, tt := range tests {
		for place, set := range map[string]func(*testing.T) []string{
			"flag":        func(*testing.T) []string { return []string{"--" + tt.field + "=" + tt.text} },
			"environment": func(t *testing.T) []string { t.Setenv("SENDHOUSE_"+strings.ToUpper(tt.field), tt.text); return nil },
			"file":        func(t *testing.T) []string { return []string{"--config=" + file(t, tt.field+": "+tt.text)} },
			"quoted file": func(t *testing.T) []string { return []string{"--config=" + file(t, tt.field+": '"+tt.text+"'")} },
		} {
			if place == "file" && strings.TrimSpace(tt.text) != tt.text {
				continue // YAML drops the space
			}
			t.Run(tt.field+" "+tt.text+" in "+place, func(t *testing.T) {
				var cli struct {
					Config     config.File
					Partitions int
					Type       uint8
					Some       []int
					Rate       float64
					Size       config.ByteSize
				}
				_, err := config.Parse(set(t), &cli)
				if tt.want == "" {
					require.NoError(t, err)
					return
				}
				require.ErrorContains(t, err, tt.want)
				require.ErrorContains(t, err, tt.field)
			})
		}
	}
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
			require.Error(t, err)
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

// ruled is a command with rules.
type ruled struct {
	Few   int           `help:"At most 3." default:"1"`
	Small int           `help:"At most 3." default:"1"`
	Odd   int           `help:"An odd number." default:"1"`
	Until time.Duration `help:"When." default:"1s"`
	Mode  string        `help:"How." enum:"a,b" default:"a"`
	Name  string        `help:"Who." required:""`
	Other int           `help:"At most 3." default:"1"`
}

// Check implements config.Checker.
func (r *ruled) Check() error {
	var errs []error
	for _, one := range []struct {
		name  string
		value int
	}{{"few", r.Few}, {"--small", r.Small}, {"few", r.Few}, {"--other", r.Other}} {
		if one.value > 3 {
			errs = append(errs, fmt.Errorf("%s %d: must be at most 3", one.name, one.value))
		}
	}
	if r.Odd%2 == 0 {
		errs = append(errs, fmt.Errorf("--odd %d: must be odd", r.Odd))
	}
	return errors.Join(errs...)
}

// Everything that is wrong is reported at once, each once, with the place where it was set.
func TestAllErrorsTogether(t *testing.T) {
	t.Setenv("SENDHOUSE_SMALL", "5")
	t.Setenv("SENDHOUSE_ODD", "many") // its rule is not asked
	t.Setenv("SENDHOUSE_OTHER", "7")  // the flag comes before it
	t.Setenv("SENDHOUSE_SMAL", "1")
	path := file(t, "few: 4\nuntil: never\nmoode: a")
	var cli struct {
		Config config.File
		Run    ruled `cmd:""`
		Other  struct {
			Odd string
		} `cmd:""`
	}
	_, err := config.Parse([]string{"--config", path, "run", "--mode=c", "--other=8"}, &cli)
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.ElementsMatch(t, []string{
		"environment: SENDHOUSE_SMAL: unknown variable (did you mean SENDHOUSE_SMALL?)",
		path + `:2: until: expected duration but got "never": time: invalid duration "never"`,
		path + `:3: moode: unknown key (did you mean "mode"?)`,
		`--mode: must be one of a, b, but is "c"`,
		`--odd: "many" is not a whole number: want decimal digits, as in 16 (from SENDHOUSE_ODD)`,
		"missing flags: --name=STRING",
		"--few 4: must be at most 3 (from " + path + ":1)",
		"--small 5: must be at most 3 (from SENDHOUSE_SMALL)",
		"--other 8: must be at most 3",
	}, lines)

	_, err = config.Parse([]string{"other"}, &cli)
	require.EqualError(t, err, "environment: SENDHOUSE_SMAL: unknown variable (did you mean SENDHOUSE_SMALL?)", "the variable is of another type there")
}
