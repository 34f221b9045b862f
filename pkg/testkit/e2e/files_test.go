package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// limited prepares a process that may have so many files open.
func (h *node) limited(t *testing.T, files int) {
	t.Helper()
	h.Process = testkit.NewProcess(t, testkit.ProcessConfig{
		Name: fmt.Sprint("up with ", files, " files"), Path: "/bin/sh", Args: append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files), binary(t)}, h.args...), Ready: h.ready,
	})
}

// TestEndToEndIdleConnections: thousands of connections that say nothing, at every listener, keep neither a group commit nor an insert from
// its files, and a client that is connected continues to send.
func TestEndToEndIdleConnections(t *testing.T) {
	t.Parallel()
	const files, idle = 1024, 1500
	up := newUp(t, "--partitions=2", "--flush-interval=50ms")
	up.limited(t, files)
	up.Start()
	require.Contains(t, up.Output(), "limit of open files allows fewer connections")
	require.Contains(t, up.Output(), "LimitNOFILE=65536")

	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1, MaxConnsPerHost: 1}, Timeout: 2 * askTimeout}
	t.Cleanup(client.CloseIdleConnections)
	sent := 0
	send := func() error {
		body := fmt.Sprintf(`{"client_msg_no":"n-%d","from_uid":"u","channel_id":"g-%d","channel_type":2,"payload":"aGk="}`, sent, sent%50)
		res, err := client.Post("http://"+up.api+"/message/send", "application/json", strings.NewReader(body))
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			return errors.Join(err, fmt.Errorf("%d %s", res.StatusCode, text))
		}
		sent++
		return nil
	}
	require.NoError(t, send())
	var conns []net.Conn
	for i := range idle {
		for _, addr := range []string{up.api, up.nats, up.admin, up.clickHouse} {
			dialer := net.Dialer{Timeout: time.Second}
			if c, err := dialer.Dial("tcp", addr); err == nil { // some wait, and some are turned away
				conns = append(conns, c)
			}
		}
		if i%50 == 0 {
			require.NoError(t, send(), "behind %d idle connections", len(conns))
		}
	}
	t.Logf("%d connections", len(conns))
	require.Greater(t, len(conns), files)
	for range 200 {
		require.NoError(t, send())
	}
	up.requireRuns(t)
	require.NotContains(t, up.Output(), "too many open files")
	for _, c := range conns {
		_ = c.Close() // some were closed by the other side
	}
	embeddedTable(t, up).await(t, sent)
	up.awaitReady(t)
	require.Equal(t, 0, up.Stop())
	require.NotContains(t, up.Output(), "too many open files")
}

// TestEndToEndTooFewFiles: a limit with which it cannot work is named, with what to set.
func TestEndToEndTooFewFiles(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.limited(t, 256)
	up.Launch()
	require.Equal(t, 1, up.Wait(time.Minute))
	require.Contains(t, up.Output(), "limit of open files is 256")
	require.Contains(t, up.Output(), "ulimit -n 65536")
}
