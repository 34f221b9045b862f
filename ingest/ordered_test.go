package ingest

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// An ordered bulk sends nothing more to a partition that has not taken an item, and other requests are not affected.
func TestOrderedBulkStops(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	reader, writer := io.Pipe()
	write := func(no string) {
		_, err := io.WriteString(writer, send("g", no)+"\n")
		require.NoError(t, err)
	}
	answer := b.asyncBulk(t, reader, orderedHeader)
	write("1")
	r := wal.Next()
	other := b.async(send("g", "other"))
	b.queued(0, 1)
	write("2")
	write("3") // so that 2 has been read, at least by the transport
	r.Refuse(http.StatusServiceUnavailable, 10077, "maximum bytes exceeded")
	r = wal.Next()
	require.Len(t, r.Sends, 1)
	require.Equal(t, "other", r.Sends[0].GetClientMsgNo())
	r.Answer(1)
	require.Equal(t, http.StatusOK, receive(t, other).status)
	require.NoError(t, writer.Close())
	require.Equal(t, []string{"wal_full", "wal_unavailable", "wal_unavailable"}, answer().codes())

	// The next request starts again. An invalid item stops nothing.
	answer = b.asyncBulk(t, strings.NewReader(send("g", "1")+"\n{}\n"+send("g", "2")+"\n"), orderedHeader)
	r = wal.Next()
	require.Len(t, r.Sends, 2)
	r.Answer(2)
	require.Equal(t, []string{"", "invalid_request", ""}, answer().codes())
	requireForgotten(t, b)
}

// An ordered bulk that does not fit into one group commit has one at a time in the log's hands.
func TestOrderedBulkWaits(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	const total = 3*flightDeferredMax + 10
	var body strings.Builder
	for i := range total {
		body.WriteString(send("g", fmt.Sprint(i)) + "\n")
	}
	answer := b.asyncBulk(t, strings.NewReader(body.String()), orderedHeader)
	for seen := 0; seen < total; {
		r := wal.Next()
		for _, s := range r.Sends {
			require.Equal(t, fmt.Sprint(seen), s.GetClientMsgNo())
			seen++
		}
		require.Zero(t, b.service.commits.Load(0).Sends, "nothing gathers that could be stored without them")
		r.Ack()
		r.Answer(uint64(seen))
	}
	require.Equal(t, slices.Repeat([]string{""}, total), answer().codes())
	requireForgotten(t, b)
}

// An ordered bulk stops after an item that was not taken before it reached a group commit, too.
func TestOrderedBulkStopsBeforeTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	f := b.service.newFlight()
	defer f.end()
	f.keepOrder()
	_, stopped := f.after(0)
	require.False(t, stopped)
	f.push(t.Context(), nil, outcome.Problem{Outcome: outcome.TooLarge})
	_, stopped = f.after(0)
	require.False(t, stopped, "no later request can store it")
	f.push(t.Context(), nil, outcome.Problem{Outcome: outcome.Overloaded})
	_, stopped = f.after(0)
	require.True(t, stopped, "its channel is not known, so it may be any")
}

// TestWindow: what GET /message/window answers, with and without what the sequencers say.
func TestWindow(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2})
	get := func() got {
		req, err := http.NewRequest(http.MethodGet, b.url+"/message/window", nil)
		require.NoError(t, err)
		g, err := b.do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, g.status)
		return g
	}
	require.JSONEq(t, `{"ordered_bulks":true}`, get().raw, "no sequencer has said it")
	kv, err := b.js.KeyValue(t.Context(), topology.LeaseBucket)
	require.NoError(t, err)
	b.lease(kv, 0, `{"remembers_ms":600000}`)
	b.lease(kv, 1, `{"remembers_ms":73000}`)
	require.Eventually(t, func() bool { return b.service.commits.Remembers() > 0 }, testTimeout, time.Millisecond)
	require.JSONEq(t, `{"remembers_ms":73000,"ordered_bulks":true}`, get().raw, "the least of all partitions")
}
