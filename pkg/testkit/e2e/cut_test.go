package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// cutVariable is how long the network is cut at the least, each time. With it there are more cuts, too.
const cutVariable = "CUT"

// cutDefault is how long it is cut otherwise, and then until the metrics show it.
const cutDefault = 4 * time.Second

// cutApart are the roles apart, each with a link of its own to NATS, and the writer with one to ClickHouse.
type cutApart struct {
	*apart
	links map[*node]*testkit.Link // to NATS
	table *testkit.Link           // to ClickHouse
}

func startCutApart(t *testing.T) *cutApart {
	t.Helper()
	server := testkit.StartNATS(t, testkit.NATSOptions{})
	c := &cutApart{apart: &apart{nats: server, natsURL: server.URL, clickHouse: enginetest.StartServer(t)}, links: make(map[*node]*testkit.Link)}
	c.table = testkit.StartLink(t, c.clickHouse.Addr)
	behind := func(role string, flags ...string) *node {
		link := testkit.StartLink(t, fmt.Sprint("127.0.0.1:", c.nats.Port))
		h := newRole(t, role, append([]string{"--nats-url=nats://" + link.Addr, "--nats-ping-interval=1s"}, flags...)...)
		c.links[h] = link
		return h
	}
	c.ingest = behind("ingest", "--ingest-ack-timeout=1s", "--ingest-answer-timeout=3s")
	c.sequencer = behind("sequencer", "--sequencer-lease-ttl=2s", "--wal-bytes-max=2GiB", "--messages-bytes-max=4GiB")
	// An insert that is under way when the network goes is given up and made again while the first may still arrive.
	c.writer = behind("writer", "--clickhouse-dsn=http://"+c.table.Addr+"/sendhouse?read_timeout=5s", "--writer-lease-ttl=2s")
	c.start()
	return c
}

// cutLength is how long to cut, and whether somebody has asked for that.
func cutLength(t *testing.T) (length time.Duration, asked bool) {
	t.Helper()
	text := os.Getenv(cutVariable)
	length, err := time.ParseDuration(cmp.Or(text, cutDefault.String()))
	require.NoError(t, err, cutVariable)
	return length, text != ""
}

// TestEndToEndCutFromNATS cuts the network between the roles and NATS under load. No process is notified: no connection
// ends. The metrics that the alerts ask for show it all the same, and when the network is back, with what was
// on its way or without, everything continues and nothing is lost.
func TestEndToEndCutFromNATS(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	c := startCutApart(t)
	load := startLoad(t, c.ingest.api, loadConfig{seed: seed})
	ways := []struct {
		name    string
		roles   []*node
		back    func(*testkit.Link)
		outcome string // what clients see meanwhile; empty: nothing
	}{
		{"all, resumed", c.roles(), (*testkit.Link).Resume, "503 wal_unavailable"},
		{"the sequencer, reset", []*node{c.sequencer}, (*testkit.Link).Reset, "503 no_answer"},
		{"all, reset", c.roles(), (*testkit.Link).Reset, "503 wal_unavailable"},
		{"ingest, resumed", []*node{c.ingest}, (*testkit.Link).Resume, "503 wal_unavailable"},
		{"the sequencer, resumed", []*node{c.sequencer}, (*testkit.Link).Resume, "503 no_answer"},
		{"the writer, reset", []*node{c.writer}, (*testkit.Link).Reset, ""},
	}
	length, asked := cutLength(t)
	if !asked {
		ways = ways[:2]
	}
	for _, way := range ways {
		load.await(300)
		t.Log("cut off from NATS:", way.name)
		failed := c.ingest.sum(t, "sendhouse_ingest_requests_total", `code="503"`)
		over := time.After(length)
		for _, role := range way.roles {
			c.links[role].Cut()
		}
		if way.outcome != "" {
			load.awaitOutcome(way.outcome)
			require.Greater(t, c.ingest.sum(t, "sendhouse_ingest_requests_total", `code="503"`), failed)
		}
		for _, role := range way.roles {
			role.awaitSeries(t, "sendhouse_nats_connected", every(0))
			role.awaitNotReady(t, "not connected to NATS")
		}
		if slices.Contains(way.roles, c.sequencer) {
			c.sequencer.awaitSeries(t, "sendhouse_jetstream_up", every(0))
			c.sequencer.awaitSeries(t, "sendhouse_sequencer_lease_epoch", none)
		}
		if slices.Contains(way.roles, c.writer) {
			c.writer.awaitSeries(t, "sendhouse_writer_lease_epoch", none)
		}
		<-over
		for _, role := range way.roles {
			way.back(c.links[role])
		}
		for _, role := range way.roles {
			role.awaitReady(t)
			role.awaitSeries(t, "sendhouse_nats_connected", every(1))
		}
		c.sequencer.awaitSeries(t, "sendhouse_jetstream_up", every(1))
		c.sequencer.awaitSeries(t, "sendhouse_sequencer_lease_epoch", some)
		load.await(300)
	}
	records := load.finish()
	c.writer.awaitSeries(t, "sendhouse_writer_lag_messages", every(0))
	c.verify(t, records)
}

// TestEndToEndCutFromClickHouse cuts the network between the writer and ClickHouse. Clients do not notice.
func TestEndToEndCutFromClickHouse(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	c := startCutApart(t)
	load := startLoad(t, c.ingest.api, loadConfig{seed: seed})
	length, asked := cutLength(t)
	ways := []func(){c.table.Resume, c.table.Reset}
	if !asked {
		ways = ways[:1]
	}
	for _, back := range ways {
		load.await(300)
		c.writer.awaitSeries(t, "sendhouse_writer_clickhouse_up", every(1))
		over := time.After(length)
		c.table.Cut()
		load.await(300)
		c.writer.awaitSeries(t, "sendhouse_writer_clickhouse_up", every(0))
		for _, lag := range []string{"sendhouse_writer_lag_messages", "sendhouse_writer_lag_seconds"} {
			c.writer.awaitSeries(t, lag, func(values []float64) bool { return len(values) > 0 && slices.Max(values) > 0 })
		}
		inserted := c.writer.sum(t, "sendhouse_writer_messages_inserted_total", "")
		<-over
		require.InDelta(t, inserted, c.writer.sum(t, "sendhouse_writer_messages_inserted_total", ""), 0, "inserted over a network that is cut")
		back()
		c.writer.awaitSeries(t, "sendhouse_writer_clickhouse_up", every(1))
		c.writer.awaitReady(t)
	}
	load.await(300)
	records := load.finish()
	c.writer.awaitSeries(t, "sendhouse_writer_lag_messages", every(0))
	c.verify(t, records)
}

// every wants at least one series, and all with one value.
func every(want float64) func([]float64) bool {
	return func(values []float64) bool {
		return len(values) > 0 && !slices.ContainsFunc(values, func(v float64) bool { return v != want })
	}
}

func some(values []float64) bool { return len(values) > 0 }
func none(values []float64) bool { return len(values) == 0 }

// awaitSeries waits until the process shows what is wanted of the series with a name.
func (h *node) awaitSeries(t *testing.T, name string, wanted func([]float64) bool) {
	t.Helper()
	requireAlertOn(t, name)
	testkit.WaitFor(t, arriveTimeout, name, func(ctx context.Context) error {
		values, err := h.series(ctx, name, "")
		if err == nil && !wanted(values) {
			err = fmt.Errorf("it is %v", values)
		}
		return err
	})
}

// sum adds the series up that have a name and a label.
func (h *node) sum(t *testing.T, name, label string) (sum float64) {
	t.Helper()
	requireAlertOn(t, name)
	values, err := h.series(t.Context(), name, label)
	require.NoError(t, err)
	for _, v := range values {
		sum += v
	}
	return sum
}

func (h *node) series(ctx context.Context, name, label string) (values []float64, err error) {
	_, page, err := ask(ctx, "http://"+h.admin+"/metrics")
	if err != nil {
		return nil, err
	}
	line := regexp.MustCompile(`(?m)^` + name + `(?:\{[^}]*` + regexp.QuoteMeta(label) + `[^}]*\})? (\S+)$`)
	for _, found := range line.FindAllStringSubmatch(page, -1) {
		value, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		values = append(values, value)
	}
	return values, nil
}

// requireAlertOn fails a test that looks at what no alert looks at.
func requireAlertOn(t *testing.T, series string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(deployDir, "prometheus/rules/*.yml"))
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if regexp.MustCompile(`\b` + series + `\b`).Match(text) {
			return
		}
	}
	require.Fail(t, "no alert asks for it", series)
}
