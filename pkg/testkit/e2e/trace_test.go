package e2e

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

const (
	tracedBy    = "4bf92f3577b34da6a3ce929d0e0e4736"
	tracedUnder = "00f067aa0ba902b7"
)

// TestEndToEndTraced follows one send from its caller's trace through all roles, in one process and in three, and sees that nothing is
// made of those that are not sampled.
func TestEndToEndTraced(t *testing.T) {
	t.Parallel()
	t.Run("up", func(t *testing.T) {
		t.Parallel()
		collector := testkit.StartCollector(t)
		up := newUp(t, "--otlp-endpoint="+collector.URL, "--trace-ratio=0", "--flush-interval=50ms")
		up.Start()
		followSend(t, collector, up, map[string]string{"POST /message/send": "sendhouse", "group commit": "sendhouse", "fold record": "sendhouse", "insert": "sendhouse"})
		awaitRows(t, up, 3)
		require.Equal(t, 0, up.Stop())
		require.Len(t, collector.Spans(), 4, "of one send")
	})
	t.Run("apart", func(t *testing.T) {
		t.Parallel()
		collector := testkit.StartCollector(t)
		a := &apart{nats: testkit.StartNATS(t, testkit.NATSOptions{}), clickHouse: enginetest.StartServer(t)}
		a.natsURL = a.nats.URL
		flags := []string{"--nats-url=" + a.natsURL, "--otlp-endpoint=" + collector.URL, "--trace-ratio=0"}
		a.writer = newRole(t, "writer", append(flags, into(a.clickHouse))...)
		a.ingest = newRole(t, "ingest", flags...)
		a.sequencer = newRole(t, "sequencer", slices.Concat(small, flags)...)
		a.start()
		followSend(t, collector, a.ingest, map[string]string{
			"POST /message/send": "sendhouse-ingest", "group commit": "sendhouse-ingest", "fold record": "sendhouse-sequencer", "insert": "sendhouse-writer",
		})
		audit(t, a.natsURL)
		for _, role := range a.roles() {
			require.Equal(t, 0, role.Stop())
		}
		require.Len(t, collector.Spans(), 4, "of one send")
	})
}

// followSend makes three sends, of which the second one is sampled, and waits for its spans, which are to come from the processes that
// services says.
func followSend(t *testing.T, collector *testkit.Collector, h *node, services map[string]string) {
	t.Helper()
	postTraced(t, h, "1", "")
	postTraced(t, h, "2", "00-"+tracedBy+"-"+tracedUnder+"-01")
	postTraced(t, h, "3", "00-"+tracedBy+"-"+tracedUnder+"-00")
	testkit.WaitFor(t, arriveTimeout, "the spans", func(context.Context) error {
		if have := len(collector.Spans()); have < len(services) {
			return fmt.Errorf("there are %d of %d", have, len(services))
		}
		return nil
	})
	requests := collector.Named("POST /message/send")
	require.Len(t, requests, 1)
	request := requests[0]
	require.Equal(t, tracedUnder, hex.EncodeToString(request.GetParentSpanId()))
	for _, span := range collector.Spans() {
		require.Equal(t, services[span.GetName()], span.Service, span.GetName())
		require.Equal(t, tracedBy, hex.EncodeToString(span.GetTraceId()))
		if span.GetName() == request.GetName() {
			continue
		}
		require.Equal(t, request.GetSpanId(), span.GetParentSpanId(), span.GetName())
		require.Len(t, span.GetLinks(), 1, span.GetName())
		require.Equal(t, request.GetSpanId(), span.GetLinks()[0].GetSpanId(), span.GetName())
		require.Equal(t, request.GetTraceId(), span.GetLinks()[0].GetTraceId(), span.GetName())
	}
	for name := range services {
		require.Len(t, collector.Named(name), 1, name)
	}
	require.Equal(t, []string{tracedBy}, exemplars(t, h), "on the histogram of durations")
}

func awaitRows(t *testing.T, up *node, n int) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "the rows", func(context.Context) error {
		if have := up.query(t, "SELECT count() FROM sendhouse.messages"); have != fmt.Sprintln(n) {
			return fmt.Errorf("there are %s", have)
		}
		return nil
	})
}

func postTraced(t *testing.T, h *node, no, traceparent string) {
	t.Helper()
	body := fmt.Sprintf(`{"from_uid":"u","channel_id":"g","channel_type":2,"client_msg_no":%q,"payload":"aGk="}`, no)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.api+"/message/send", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if traceparent != "" {
		req.Header.Set("Traceparent", traceparent)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// exemplars are the traces that the histogram of a process's requests names.
func exemplars(t *testing.T, h *node) []string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.admin+"/metrics", http.NoBody)
	require.NoError(t, err)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	client := &http.Client{Timeout: askTimeout}
	resp, err := client.Do(req)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	var traces []string
	for _, found := range regexp.MustCompile(`(?m)^sendhouse_ingest_request_duration_seconds_bucket.* # \{trace_id="([0-9a-f]+)"\}`).FindAllStringSubmatch(string(text), -1) {
		traces = append(traces, found[1])
	}
	return traces
}

// TestEndToEndTracedWithoutACollector: what is sent is not delayed and not lost if no collector takes the traces, and the process ends in time.
func TestEndToEndTracedWithoutACollector(t *testing.T) {
	t.Parallel()
	up := newUp(t, "--otlp-endpoint=http://"+testkit.FreeAddr(t), "--trace-ratio=1", "--flush-interval=50ms")
	up.Start()
	for n := range 20 {
		postTraced(t, up, fmt.Sprint(n), "")
	}
	awaitRows(t, up, 20)
	testkit.WaitFor(t, arriveTimeout, "the word that spans are dropped", func(context.Context) error {
		if !strings.Contains(up.Output(), "cannot export spans to the trace collector") {
			return errors.New("not yet")
		}
		return nil
	})
	require.Equal(t, 1, strings.Count(up.Output(), "trace collector"))
	require.Equal(t, 0, up.Stop())
}
