package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestEndToEndReadiness takes away what a send needs, one thing after another, while nothing is sent: /readyz of the API says
// so, and that it is back.
func TestEndToEndReadiness(t *testing.T) {
	t.Parallel()
	a := startApart(t)
	a.ingest.awaitAPI(t, http.StatusOK, "ready")
	for _, c := range []struct {
		name               string
		takeAway, giveBack func()
		said               string
	}{
		{"no sequencer", func() { require.Equal(t, 0, a.sequencer.Stop()) }, func() { a.sequencer.Launch() }, "partition 0: no sequencer has owned it"},
		{"a sequencer that hangs", func() { a.sequencer.Pause() }, func() { a.sequencer.Resume() }, "has not renewed its lease"},
		{"a sequencer that died", func() { a.sequencer.Kill9() }, func() { a.sequencer.Launch() }, "has not renewed its lease"},
		{"no NATS", func() { a.nats.Kill9() }, func() { a.nats.Start() }, "not connected"},
	} {
		c.takeAway()
		begun := time.Now()
		a.ingest.awaitAPI(t, http.StatusServiceUnavailable, c.said)
		gone := time.Since(begun)
		c.giveBack()
		begun = time.Now()
		a.ingest.awaitAPI(t, http.StatusOK, "ready")
		t.Logf("%s: noticed after %s, and its end after %s", c.name, gone, time.Since(begun))
	}
	a.sequencer.WaitReady()
}
