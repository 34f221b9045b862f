package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// TestEndToEndWrongSettings starts the program with several wrong settings at once, for each command: all of them are reported, and
// nothing is connected, opened or written.
func TestEndToEndWrongSettings(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "sendhouse")
	output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(output))
	const (
		ping = "--nats-ping-interval=-1s"
		dsn  = "--clickhouse-dsn=ftp://host/db"
		role = "--role=two.words"
	)
	natsGiven := []string{"--nats-url=nats://ADDR"}
	commands := map[string]struct {
		right   []string // with ADDR for the address of a server
		wrong   []string // each is reported by its name
		missing string
	}{
		"up": {right: []string{"--nats-url=nats://ADDR", "--clickhouse-dsn=http://ADDR/db", "--otlp-endpoint=http://ADDR"}, wrong: []string{
			"--partitions=0x10", "--dedup-window=1ms", "--replicas=2", "--api-addr=0.0.0.0:1", "--outbox-messages-max=1", "--sequencer-lease-ttl=1ms",
			"--flush-rows-max=0", "--history-timeout=1h", "--allowed-hosts=a/b", "--trace-ratio=2", "--clickhouse-tls-ca=/no/such/file", ping,
		}},
		"ingest": {missing: "--nats-url", wrong: []string{
			"--api-tokens-file=/no/such/file", "--api-token-rate=-1", "--ingest-ack-timeout=0s", "--history-timeout=1h", "--ingest-payload-rules=maybe",
			dsn, "--allowed-hosts=a/b", "--trace-ratio=2",
		}},
		"sequencer run":       {missing: "--nats-url", wrong: []string{"--partitions=5000", "--wal-bytes-max=1MiB", "--checkpoint-interval=1s", "--sequencer-lease-ttl=1ms"}},
		"sequencer status":    {missing: "--nats-url", wrong: []string{ping}},
		"writer run":          {right: natsGiven, missing: "--clickhouse-dsn", wrong: []string{"--flush-interval=0s", "--writer-inserts-max=0", ping}},
		"writer status":       {missing: "--nats-url", wrong: []string{ping}},
		"audit":               {right: natsGiven, wrong: []string{ping, dsn, "--audit-memory=many"}},
		"bench":               {right: []string{"--target=http://ADDR"}, wrong: []string{"--rate=-1", "--bulk=-1", "--verify-patience=0s", "--clickhouse-user=u"}},
		"tail":                {right: natsGiven, wrong: []string{ping, "--channel-type=0", "--last=3"}},
		"replay ndjson":       {right: []string{"--nats-url=nats://ADDR", "--output=out", "--state=state"}, wrong: []string{ping, "--replay-rate=-1", "--replay-channel=x"}},
		"replay nats":         {right: natsGiven, wrong: []string{ping, "--replay-rate=-1", "--subject=messages.x"}},
		"replay clickhouse":   {right: natsGiven, wrong: []string{ping, "--replay-rate=-1", dsn}},
		"deadletters ls":      {right: natsGiven, wrong: []string{"--limit=-1", role, "--since=-1s", ping}},
		"deadletters show":    {right: natsGiven, wrong: []string{"many", ping}},
		"deadletters requeue": {right: natsGiven, wrong: []string{role, dsn, ping}},
		"deadletters purge":   {right: natsGiven, wrong: []string{role, "--older-than=-1h", ping}},
		"repair deployment":   {right: natsGiven, wrong: []string{"--partitions=5000", "--dedup-window=1ms", ping}},
		"repair message-log":  {right: natsGiven, wrong: []string{"--partition=-1", ping}},
		"repair wal":          {right: natsGiven, wrong: []string{"--partition=-1", ping}},
		"repair permissions":  {right: natsGiven, wrong: []string{"--nats-nkey=/no/such/file", ping}},
		"repair positions":    {right: natsGiven, wrong: []string{dsn, ping}},
		"repair table":        {right: natsGiven, wrong: []string{dsn, ping}},
		"migrate":             {wrong: []string{dsn, "--all"}},
		"version":             {wrong: []string{"--log-level=loud", "--log-format=xml"}},
	}
	parser, err := kong.New(new(cli), kong.Name("sendhouse"))
	require.NoError(t, err)
	leaves := parser.Model.Leaves(true)
	require.Len(t, leaves, len(commands))
	for _, leaf := range leaves {
		name := strings.TrimPrefix(leaf.FullPath(), "sendhouse ")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command, known := commands[name]
			require.True(t, known, "the command is missing above")
			addr, accepted := countConnections(t)
			dir := t.TempDir()
			args := strings.Fields(name)
			for _, arg := range append(command.right, command.wrong...) {
				args = append(args, strings.ReplaceAll(arg, "ADDR", addr))
			}
			run := exec.CommandContext(t.Context(), binary, args...)
			run.Dir = dir
			output, err := run.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, string(output))
			require.Equal(t, 2, exit.ExitCode(), string(output))
			for _, wrong := range append(command.wrong, command.missing) {
				flag, _, _ := strings.Cut(wrong, "=")
				require.Contains(t, string(output), flag, string(output))
			}
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries, "nothing is written")
			require.Zero(t, accepted.Load(), "nothing is connected")
		})
	}
}

// countConnections listens, and counts.
func countConnections(t *testing.T) (addr string, accepted *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted = new(atomic.Int64)
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			accepted.Add(1)
			if err == nil {
				_ = conn.Close() // it has been counted
			}
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String(), accepted
}
