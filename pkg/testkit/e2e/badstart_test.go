package e2e

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// badStartTimeout is what a start that cannot succeed may take to say so.
const badStartTimeout = 10 * time.Second

// badStart is a start that cannot succeed.
type badStart struct {
	node *node
	// want are parts of the one line: what is wrong, and what to do.
	want []string
}

func TestEndToEndBadStarts(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T) badStart{
		"another number of partitions": otherPartitions,
		"data folder in use":           dataFolderInUse,
		"data folder not writable": func(t *testing.T) badStart {
			file := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(file, nil, 0o600))
			// No process can write below a file, not even as root.
			return badStart{newUpOn(t, filepath.Join(file, "data")), []string{file, "writ", "data folder"}}
		},
		"taken port of the API":        func(t *testing.T) badStart { return takenPort(t, "api-addr") },
		"taken port of the admin":      func(t *testing.T) badStart { return takenPort(t, "admin-addr") },
		"taken port of NATS":           func(t *testing.T) badStart { return takenPort(t, "nats-addr") },
		"taken port of ClickHouse":     func(t *testing.T) badStart { return takenPort(t, "clickhouse-addr") },
		"NATS refuses":                 func(t *testing.T) badStart { return natsAway(t, testkit.FreeAddr(t)) },
		"NATS says nothing":            func(t *testing.T) badStart { return natsAway(t, silentAddr(t)) },
		"no deployment for the ingest": noDeployment,
		"damaged settings":             func(t *testing.T) badStart { return settings(t, "api-addr: [127.0.0.1\n  x: }", "line 1") },
		"settings of the wrong type":   func(t *testing.T) badStart { return settings(t, "partitions: many", "partitions") },
		"settings out of range":        func(t *testing.T) badStart { return settings(t, "partitions: 5000", "partitions") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := prepare(t)
			bad.node.Launch()
			status := bad.node.Wait(badStartTimeout)
			output := bad.node.Output()
			require.NotZero(t, status, output)
			require.Positive(t, status, "it was ended by a signal:\n%s", output)
			require.NotContains(t, output, "panic")
			require.NotContains(t, output, "goroutine ")
			line := complaint(t, output)
			for _, want := range bad.want {
				require.Contains(t, line, want)
			}
		})
	}
}

// complaint is the one line that says what is wrong.
func complaint(t *testing.T, output string) string {
	t.Helper()
	var lines []string
	for scanner := bufio.NewScanner(strings.NewReader(output)); scanner.Scan(); {
		if strings.HasPrefix(scanner.Text(), "sendhouse: ") {
			lines = append(lines, scanner.Text())
		}
	}
	require.Len(t, lines, 1, output)
	return lines[0]
}

func otherPartitions(t *testing.T) badStart {
	first := newUp(t, "--partitions=2")
	first.Start()
	require.Equal(t, 0, first.Stop())
	return badStart{newUpOn(t, first.dataDir, "--partitions=3"), []string{"partitions: recorded 2, configured 3", "--partitions"}}
}

func dataFolderInUse(t *testing.T) badStart {
	first := newUp(t)
	first.Start()
	return badStart{newUpOn(t, first.dataDir), []string{first.dataDir, "in use", "choose another data folder"}}
}

// takenPort configures up with an address that another process listens on.
func takenPort(t *testing.T, name string) badStart {
	addr := silentAddr(t)
	return badStart{newUp(t, "--"+name+"="+addr), []string{addr, "address already in use", "--" + name}}
}

func natsAway(t *testing.T, addr string) badStart {
	return badStart{newUp(t, "--nats-url=nats://"+addr), []string{"NATS", addr, "--nats-url"}}
}

func noDeployment(t *testing.T) badStart {
	server := testkit.StartNATS(t, testkit.NATSOptions{})
	return badStart{newRole(t, "ingest", "--nats-url="+server.URL), []string{"no deployment", "start a sequencer"}}
}

func settings(t *testing.T, text, want string) badStart {
	path := filepath.Join(t.TempDir(), "sendhouse.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return badStart{newUp(t, "--config="+path), []string{want}}
}

// silentAddr is an address where connections are accepted and nothing is said.
func silentAddr(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	return listener.Addr().String()
}

// TestEndToEndRefusedStart: an `up` that refuses its start takes its NATS with it. The command that it names works as it is printed.
func TestEndToEndRefusedStart(t *testing.T) {
	t.Parallel()
	bucket := "KV_" + topology.DeploymentBucket
	for name, damage := range map[string]func(ctx context.Context, js jetstream.JetStream) error{
		"record lost": func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, bucket) },
		"record damaged": func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.Publish(ctx, "$KV."+topology.DeploymentBucket+".deployment", []byte("stray"))
			return err
		},
		"all write-ahead logs lost": func(ctx context.Context, js jetstream.JetStream) error {
			return errors.Join(js.DeleteStream(ctx, topology.WALStream(0)), js.DeleteStream(ctx, topology.WALStream(1)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "the data")
			up := newUpOn(t, dir, damageFlags()...)
			up.Start()
			probes := []send{damageProbe(0, "before"), damageProbe(1, "before")}
			var answers []answer
			for _, probe := range probes {
				r, outcome := sendOnce(up.api, &probe)
				require.Empty(t, outcome)
				answers = append(answers, r.answer)
			}
			embeddedTable(t, up).await(t, len(probes))
			require.Equal(t, 0, up.Stop())
			withNATS(t, dir, up.nats, func(js jetstream.JetStream) { require.NoError(t, damage(t.Context(), js)) })

			up.Launch()
			require.Positive(t, up.Wait(badStartTimeout), up.Output())
			commands := regexp.MustCompile("sendhouse repair [^`]*").FindAllString(complaint(t, up.Output()), -1)
			require.NotEmpty(t, commands, up.Output())
			shell := func(command string) (string, error) {
				cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
				cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary(t))+":"+os.Getenv("PATH"))
				output, err := cmd.CombinedOutput()
				return string(output), err
			}
			for _, command := range commands {
				output, err := shell(command)
				require.Error(t, err, "it only says what it would do")
				require.Contains(t, output, "--yes")
				output, err = shell(command + " --yes")
				require.NoError(t, err, "%s: %s", command, output)
			}
			up.Start()
			for i, probe := range probes {
				again, outcome := sendOnce(up.api, &probe)
				require.Empty(t, outcome, up.Output())
				require.Equal(t, answers[i], again.answer)
			}
			output, err := shell(commands[0]) // reaches the NATS of the process that runs
			require.NoError(t, err, output)
			require.Contains(t, output, "nothing to repair")
			require.Equal(t, 0, up.Stop())
		})
	}
}
