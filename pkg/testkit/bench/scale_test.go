package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShareOut(t *testing.T) {
	t.Parallel()
	require.Equal(t, []int{256}, shareOut(256, 1))
	require.Equal(t, []int{86, 85, 85}, shareOut(256, 3))
	require.Equal(t, []int{64, 64, 64, 64}, shareOut(256, 4))
}

func TestAddUp(t *testing.T) {
	t.Parallel()
	all := addUp([]figures{
		{Messages: 300, Rows: 300, Refused: 1, Seconds: 2, PerSecond: 150, P50: 3, P99: 9, Generator: 10},
		{Messages: 100, Rows: 100, Broken: 2, Seconds: 2.5, PerSecond: 40, P50: 2, P99: 20, Generator: 30},
	})
	require.Equal(t, figures{Messages: 400, Rows: 400, Refused: 1, Broken: 2, Seconds: 2.5, PerSecond: 190, P50: 3, P99: 20, Generator: 15}, all)
}

func TestChooseScaleCases(t *testing.T) {
	t.Parallel()
	usual, err := chooseCases("", 500)
	require.NoError(t, err)
	names := make(map[string]bool)
	for _, w := range usual {
		require.False(t, w.scale, "%s is measured only when named", w.name)
		names[w.name] = true
	}
	group, err := chooseCases("64, scale", 500)
	require.NoError(t, err)
	require.Len(t, group, 2+len(scaleCases()))
	require.Equal(t, "64", group[0].name)
	require.Equal(t, apartCase, group[1].name, "what the others are held against is measured before them")
	for _, w := range group[2:] {
		require.False(t, names[w.name], w.name)
		names[w.name] = true
		require.Equal(t, 500, w.channels)
		require.Equal(t, yardstickConnections, w.connections)
		require.True(t, w.name == "partitions-1" || names[w.against], "%s is measured after %s", w.name, w.against)
		require.NotEqual(t, w.partitions > 0, w.apart, w.name)
	}
	one, err := chooseCases("ingest-3", 500)
	require.NoError(t, err)
	require.Len(t, one, 1)
	require.Equal(t, 3, one[0].ingests)
}

// Each instance's part of what is known of it comes from its own metrics.
func TestAwaitShares(t *testing.T) {
	t.Parallel()
	d := new(deployment)
	instance := func(role string, held func() int) {
		listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for p := range held() {
				_, _ = fmt.Fprintf(w, "%s{partition=\"%d\"} 7\n", sharing()[role], p)
			}
		}))
		t.Cleanup(listener.Close)
		d.servers = append(d.servers, &server{name: role, metricsURL: listener.URL, ended: make(chan struct{})})
	}
	var asked atomic.Int64
	instance("sequencer", func() int { return max(apartPartitions-int(asked.Add(1)), 2) }) // gives back one at a time
	instance("sequencer", func() int { return 2 })
	instance("writer", func() int { return apartPartitions })
	require.NoError(t, d.awaitShares(t.Context()))
	require.EqualValues(t, 2, asked.Load())

	ctx, cancel := context.WithCancel(t.Context())
	instance("writer", func() int { cancel(); return 0 })
	require.ErrorContains(t, d.awaitShares(ctx), "writer")
}

func TestShared(t *testing.T) {
	t.Parallel()
	require.True(t, shared([]int{4}, 4))
	require.True(t, shared([]int{1, 2, 1}, 4))
	require.True(t, shared([]int{1, 0}, 1))
	require.False(t, shared([]int{3, 1}, 4), "not given back yet")
	require.False(t, shared([]int{2, 1}, 4), "given back and not taken yet")
}

func TestPieces(t *testing.T) {
	t.Parallel()
	const before = `# HELP sendhouse_ingest_batch_sends Sends in a group commit.
sendhouse_ingest_batch_sends_bucket{le="1"} 5
sendhouse_ingest_batch_sends_sum 100
sendhouse_ingest_batch_sends_count 10
sendhouse_ingest_ack_duration_seconds_sum 1
sendhouse_ingest_ack_duration_seconds_count 10
held{partition="0"} 3
held{partition="1",of="a b"} 4e1

`
	sums := sumSeries(before)
	require.Equal(t, series{2, 43}, sums["held"])
	require.Len(t, sums, 6)
	flat := make(map[string]float64)
	for name, s := range sums {
		flat[name] = s.sum
	}
	after := map[string]float64{
		"sendhouse_ingest_batch_sends_sum": 1300, "sendhouse_ingest_batch_sends_count": 50,
		"sendhouse_ingest_ack_duration_seconds_sum": 1.1, "sendhouse_ingest_ack_duration_seconds_count": 60,
	}
	p := piecesOf(flat, after, 4)
	require.InDelta(t, 10, p.Commits, 1e-9)
	require.InDelta(t, 30, p.Sends, 1e-9)
	require.InDelta(t, 2, p.AckMS, 1e-9)
	require.Zero(t, p.Inserts)
	require.Zero(t, p.InsertRow, "there was none")
}

func TestPrintsParts(t *testing.T) {
	t.Parallel()
	apart := figures{
		PerSecond: 1, CPUBy: map[string]float64{"ingest": 40, "writer": 5}, SwitchesBy: map[string]float64{"ingest": 0.5, "writer": 0.1},
		Pieces: Pieces{Commits: 1000, Sends: 20, AckMS: 1.5, Inserts: 4, InsertRow: 5000},
	}
	var out bytes.Buffer
	(&Report{Results: []Result{{Name: "apart", Sendhouse: []figures{apart}, Nothing: []figures{{PerSecond: 2}}}}}).print(&out)
	require.Contains(t, out.String(), "apart: CPU µs by process: ingest 40.0, writer 5.0\n")
	require.Contains(t, out.String(), "apart: context switches per message: ingest 0.5, writer 0.1\n")
	require.Contains(t, out.String(), "apart: 1000 group commits/s of 20.0 sends, acknowledged after 1.50 ms; 4.0 inserts/s of 5000 rows\n")
}

func TestContextSwitches(t *testing.T) {
	t.Parallel()
	require.Equal(t, 42, parseSwitches("Name:\tx\nThreads:\t9\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n"))
	require.Zero(t, parseSwitches("Name:\tx\n"))
	_, err := os.Stat("/proc/self/task")
	if os.IsNotExist(err) {
		t.Skip("there is no /proc")
	}
	n, err := contextSwitches(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, n)
}
