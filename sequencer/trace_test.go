package sequencer_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	sequenceraudit "github.com/sendhouse/sendhouse/sequencer/audit"

	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

func traceparent(n int) string { return fmt.Sprintf("00-%032x-%016x-01", n, n) }

// stored is a record of the log as the broker has it.
type stored struct {
	subject, traced string
	data            []byte
}

func (h *harness) stored(n, messages uint64) []stored {
	h.T.Helper()
	h.Messages(messages)
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(h.T, err)
	all := make([]stored, n)
	for i := range all {
		m, err := stream.GetMsg(h.Ctx, uint64(i+1))
		require.NoError(h.T, err)
		all[i] = stored{subject: m.Subject, traced: m.Header.Get(topology.HeaderTrace), data: m.Data}
	}
	return all
}

// With tracing on, a record says beside it which of its messages are traced, and the fold has a span. What is in the log is the
// same bytes as without tracing, which is shown by taking the log away and deriving it with a sequencer that does not trace.
func TestTracingIsBesideTheLog(t *testing.T) {
	t.Parallel()
	collector := testkit.StartCollector(t)
	provider, err := tracing.New(t.Context(), tracing.Config{OTLPEndpoint: collector.URL}, tracing.Deps{
		Service: "test", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	h := setup(t)
	h.Tracer = provider.Tracer("sequencer")
	_, stop := h.Start()

	h.Ask(sequencertest.Send("c", "1"))
	traced := h.PublishTraced("1:"+traceparent(1)+",2:"+traceparent(2)+",9:"+traceparent(3)+",nonsense",
		sequencertest.Send("c", "2"), sequencertest.Send("c", "3"), sequencertest.Send("c", "1"), sequencertest.Send("d", "4")) // the third is a duplicate
	answers := h.Answer(traced)
	require.Equal(t, message.Outcome_OUTCOME_DUPLICATE, answers[2].GetOutcome())
	with := h.stored(2, 4)
	var headers []string
	for _, m := range with {
		headers = append(headers, m.traced)
	}
	require.Equal(t, []string{"", "1:" + traceparent(1)}, headers, "the duplicate has no message; places are those of messages")
	report, err := sequenceraudit.Refold(h.Ctx, h.JS, h.Deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Zero(t, report.Differences)
	stop()

	h.DeleteMessageLog()
	h.Ensure()
	h.Tracer = nil
	_, stop = h.Start()
	without := h.stored(2, 4)
	for i := range with {
		require.Equal(t, with[i].subject, without[i].subject)
		require.Equal(t, with[i].data, without[i].data)
		require.Empty(t, without[i].traced)
	}
	stop()

	// Derived again by one that traces; the records were folded before as far as the message log shows, so that they are no news.
	h.Tracer = provider.Tracer("sequencer")
	h.Start()
	h.Ask(sequencertest.Send("c", "5"))
	require.NoError(t, provider.Close())
	folds := collector.Named("fold record")
	require.Len(t, folds, 1)
	require.Equal(t, traceparent(1), fmt.Sprintf("00-%x-%x-01", folds[0].GetTraceId(), folds[0].GetParentSpanId()))
	require.Len(t, folds[0].GetLinks(), 3)
	require.Positive(t, time.Duration(folds[0].GetEndTimeUnixNano()-folds[0].GetStartTimeUnixNano()))
}
