package e2e

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// badStartTimeout is what a start that cannot succeed may take to say so.
const badStartTimeout = 10 * time.Second

// badStart is a start that cannot succeed.
type badStart struct {
	house *house
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
			// Below a file nobody can write, not even root.
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
			bad.house.Launch()
			status := bad.house.Wait(badStartTimeout)
			output := bad.house.Output()
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

// takenPort gives up an address that another listens on.
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
