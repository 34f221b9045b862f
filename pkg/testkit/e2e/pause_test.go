package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// TestEndToEndPause stops the whole for longer than its leases last (SIGSTOP). No other process could have its
// partitions, so the first send afterwards is answered.
func TestEndToEndPause(t *testing.T) {
	t.Parallel()
	const ttl = time.Second
	up := newUp(t, "--sequencer-lease-ttl="+ttl.String(), "--writer-lease-ttl="+ttl.String())
	up.Start()
	send := func() {
		t.Helper()
		begun := time.Now()
		resp, err := http.Post("http://"+up.api+"/message/send", "application/json", strings.NewReader(`{"from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`))
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s", text)
		t.Logf("answered after %s", time.Since(begun))
	}
	send()
	for range 3 {
		up.Pause()
		require.NoError(t, lifecycle.Pause(t.Context(), 2*ttl)) // what is tested is that time passes
		up.Resume()
		send()
	}
	require.Equal(t, 0, up.Stop())
}
