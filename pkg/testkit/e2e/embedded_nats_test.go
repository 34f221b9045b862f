package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
)

// TestEndToEndEmbeddedNATS: a client without credentials reads the message log and cannot disturb the deployment; the commands find the key by
// themselves, and without it they read or say what is missing.
func TestEndToEndEmbeddedNATS(t *testing.T) {
	t.Parallel()
	home := t.TempDir() // with the data folder where `up` has it by default
	up := newUpOn(t, filepath.Join(home, "data"), "--partitions=1")
	up.Start()
	body := func(n int) string {
		return fmt.Sprintf(`{"client_msg_no":"n-%d","from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`, n)
	}
	post(t, up, body(0))

	refused := newDenials()
	nc, err := nats.Connect("nats://"+up.nats, nats.ErrorHandler(refused.hear))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	for _, subject := range []string{"messages.0", "sends.0", "$KV.SENDHOUSE_PERMISSIONS.x", "$KV.SENDHOUSE.deployment", "$JS.API.STREAM.PURGE.SENDS_0", "$JS.API.STREAM.DELETE.MESSAGES_0"} {
		require.NoError(t, nc.Publish(subject, []byte("hello")))
		refused.await(t, subject)
	}
	require.NoError(t, nc.PublishRequest("$JS.API.INFO", "messages.0", nil))
	refused.await(t, "$JS.API.INFO")
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	consumer, err := js.OrderedConsumer(t.Context(), "MESSAGES_0", jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	_, err = consumer.Next(jetstream.FetchMaxWait(askTimeout))
	require.NoError(t, err)
	for n := range 3 {
		post(t, up, body(n+1))
	}
	up.requireRuns(t)
	up.awaitReady(t)

	in := func(dir string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), binary(t), append(args, "--nats-url=nats://"+up.nats)...)
		cmd.Dir = dir
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	elsewhere := t.TempDir()
	for _, dir := range []string{home, elsewhere} { // as the operator, and as anyone
		text, err := in(dir, "tail", "--channel=g")
		require.NoError(t, err, text)
		require.Equal(t, 4, strings.Count(text, "hi\n"), text)
		text, err = in(dir, "replay", "ndjson")
		require.NoError(t, err, text)
	}
	for _, args := range [][]string{{"audit"}, {"writer", "status"}, {"sequencer", "status"}, {"deadletters", "ls"}, {"replay", "ndjson", "--source=wal"}, {"repair", "message-log", "--partition=0"}} {
		text, err := in(home, args...)
		if args[0] != "repair" { // there is nothing to mend
			require.NoError(t, err, "%v: %s", args, text)
		}
		require.NotContains(t, text, "--nats-nkey")
		text, err = in(elsewhere, args...)
		require.Error(t, err, args)
		require.Contains(t, text, "--nats-nkey", args)
		require.Contains(t, text, "nats/operator.nk", args)
	}
	text, err := in(elsewhere, "audit", "--nats-nkey="+broker.OperatorFile(up.dataDir))
	require.NoError(t, err, text)
	text, err = in(elsewhere, "ingest", "--api-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0")
	require.Error(t, err)
	require.Contains(t, text, "--nats-nkey")

	info, err := os.Stat(broker.OperatorFile(up.dataDir))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Equal(t, 0, up.Stop())
}

// TestEndToEndLoopbackByDefault: `up` lets no other machine read the message log unasked, and the admin listener, which metrics are fetched from,
// gives other machines nothing else.
func TestEndToEndLoopbackByDefault(t *testing.T) {
	t.Parallel()
	status, output := command(t, "up", "--data-dir="+t.TempDir(), "--nats-addr=0.0.0.0:0", "--api-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--clickhouse-addr=127.0.0.1:0")
	require.Equal(t, 2, status, output)
	require.Contains(t, output, "nats-addr 0.0.0.0:0")
	require.Contains(t, output, "--insecure")

	up := newUp(t, "--insecure")
	for i, arg := range up.args {
		up.args[i] = strings.Replace(strings.Replace(arg, "--nats-addr=127.0.0.1:", "--nats-addr=0.0.0.0:", 1), "--admin-addr=127.0.0.1:", "--admin-addr=0.0.0.0:", 1)
	}
	up.prepare(t, "up for all")
	up.Start()
	require.Contains(t, up.Output(), "metrics and health only")
	outside := otherAddr(t)
	_, port, _ := strings.Cut(up.admin, ":")
	for path, want := range map[string]int{"/metrics": http.StatusOK, "/readyz": http.StatusOK, "/": http.StatusForbidden, "/loglevel": http.StatusForbidden, "/debug/pprof/": http.StatusForbidden, "/frontpage/state": http.StatusForbidden} {
		got, _, err := ask(t.Context(), "http://"+outside+":"+port+path)
		require.NoError(t, err)
		require.Equal(t, want, got, path)
	}
}
