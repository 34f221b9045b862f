package ingest

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// traceSetup is a service that traces what its callers want traced, to a collector. Flush ends the tracing.
func traceSetup(t *testing.T) (b *bundle, collector *testkit.Collector, flush func()) {
	t.Helper()
	collector = testkit.StartCollector(t)
	provider, err := tracing.New(t.Context(), tracing.Config{OTLPEndpoint: collector.URL}, tracing.Deps{
		Service: "test", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	o := one()
	o.tracer = provider.Tracer("ingest")
	b = setup(t, o)
	return b, collector, func() {
		t.Helper()
		b.stop() // behind the last request
		require.NoError(t, <-b.ended)
		b.ended <- nil
		require.NoError(t, provider.Close())
	}
}

// traced posts in the background, as the child of span n of trace n.
func (b *bundle) traced(path, body string, n int) <-chan got {
	req, err := http.NewRequest(http.MethodPost, b.url+path, bytes.NewReader([]byte(body)))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", fmt.Sprintf("00-%032x-%016x-01", n, n))
	c := make(chan got, 1)
	go func() {
		g, _ := b.do(req) // that of a bulk is an array
		c <- g
	}()
	return c
}

// A group commit says beside its record which of its sends are traced: of each request one, and no more than there is room for.
func TestGroupCommitNamesWhatIsTraced(t *testing.T) {
	t.Parallel()
	b, collector, flush := traceSetup(t)
	wal := b.script(0)
	answers := []<-chan got{b.async(send("g", "first"))}
	r := wal.next()
	require.NotContains(t, r.msg.Header, topology.HeaderTrace, "nothing in it is traced")
	const many = 40
	answers = append(answers, b.async(send("g", "second")))
	b.queued(0, 1)
	answers = append(answers, b.traced("/message/sendbulk", "["+send("g", "a")+","+send("g", "b")+"]", 1))
	b.queued(0, 3)
	for n := range many {
		answers = append(answers, b.traced("/message/send", send("g", fmt.Sprint(n)), n+2))
	}
	b.queued(0, 3+many)
	r.ack()
	full := wal.next()
	require.Len(t, full.sends, 3+many)
	samples := tracing.ParseSamples(full.msg.Header.Get(topology.HeaderTrace))
	require.Len(t, samples, tracing.SamplesMax)
	require.EqualValues(t, 1, samples[0].Place)
	require.EqualValues(t, 3, samples[1].Place, "the other one of the bulk is not followed")
	require.Equal(t, fmt.Sprintf("%032x", 1), samples[0].Parent.TraceID().String())
	full.ack()
	r.answer(1)
	full.answer(2)
	for _, c := range answers {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
	flush()

	require.Len(t, collector.Named("POST /message/send"), many)
	require.Len(t, collector.Named("POST /message/sendbulk"), 1)
	commits := collector.Named("group commit")
	require.Len(t, commits, 1)
	require.Len(t, commits[0].GetLinks(), tracing.SamplesMax)
	require.Equal(t, collector.Named("POST /message/sendbulk")[0].GetSpanId(), commits[0].GetParentSpanId())
	require.Zero(t, commits[0].GetStatus().GetCode())
}

// What goes wrong is seen in the trace, of the commit and of the request.
func TestTraceOfAFailure(t *testing.T) {
	t.Parallel()
	b, collector, flush := traceSetup(t)
	wal := b.script(0)
	refused := b.traced("/message/send", send("g", "1"), 1)
	wal.next().refuse(503, 10077, "maximum bytes exceeded")
	require.Equal(t, http.StatusServiceUnavailable, receive(t, refused).status)
	require.Equal(t, http.StatusBadRequest, receive(t, b.traced("/message/send", "{", 2)).status)
	flush()
	commits, requests := collector.Named("group commit"), collector.Named("POST /message/send")
	require.Len(t, commits, 1)
	require.Len(t, requests, 2)
	require.Equal(t, outcomeWALFull.spec().code, commits[0].GetStatus().GetMessage())
	require.Equal(t, outcomeWALFull.spec().code, requests[0].GetStatus().GetMessage())
	require.Zero(t, requests[1].GetStatus().GetCode(), "a caller's mistake is no error of ours")
}
