package sequencer

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// requireCannotTell wants a part that found nothing wrong and could not be finished.
func requireCannotTell(t *testing.T, part *audit.Part, err error, want string) {
	t.Helper()
	require.ErrorContains(t, err, want)
	require.Zero(t, part.Differences, part.First)
	report := audit.NewReport()
	report.Add(slog.New(slog.DiscardHandler), part, err)
	report.Finish(nil)
	require.Equal(t, audit.CannotTell, report.Status)
}

// A message log that is behind differs in nothing: its records are made when a sequencer works.
func TestRefoldOfALogThatIsBehind(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.folded(3)
	h.publish(send("c", "3"))
	h.publish(send("c", "4"))
	part, err := Refold(h.ctx, h.js, h.deployment, 0, slog.New(slog.DiscardHandler))
	requireCannotTell(t, part, err, "the message log ends at record 3, and the write-ahead log makes 4")
	require.EqualValues(t, 3, part.Compared)
}

// A record that was not there when it was looked for, and is when the log's end is, is not missing.
func TestRefoldOfARecordThatComesMeanwhile(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.start()
	h.ask(send("c", "1"))
	h.messages(1)
	stop()
	log, err := messagelog.Open(h.ctx, h.js, 0)
	require.NoError(t, err)
	state, err := fold.New(fold.Params{DedupWindow: h.deployment.DedupWindow, DedupEntriesMax: h.deployment.DedupEntriesMax})
	require.NoError(t, err)
	r := &refold{part: &audit.Part{}, report: new(Refolded), logs: &natsLogs{js: h.js}, log: log, state: state, patience: refoldPatience}
	requireCannotTell(t, r.part, r.absent(h.ctx, 1, 1), "record 1 is in the message log, and did not come")
}
