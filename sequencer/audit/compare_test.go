package audit

import (
	"bytes"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"
	"github.com/sendhouse/sendhouse/sequencer/natslog"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
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
	h.Answered(3)
	h.Publish(sequencertest.Send("c", "3"))
	h.Publish(sequencertest.Send("c", "4"))
	part, err := Refold(h.Ctx, h.JS, h.Deployment, 0, slog.New(slog.DiscardHandler))
	requireCannotTell(t, part, err, "the message log ends at record 3, and the write-ahead log makes 4")
	require.EqualValues(t, 3, part.Compared)
}

// A record that was not there when it was looked for, and is when the log's end is, is not missing.
func TestRefoldOfARecordThatComesMeanwhile(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	h.Ask(sequencertest.Send("c", "1"))
	h.Messages(1)
	stop()
	log, err := messagelog.Open(h.Ctx, h.JS, 0)
	require.NoError(t, err)
	state, err := fold.New(h.Params())
	require.NoError(t, err)
	r := &comparison{js: h.JS, part: &audit.Part{}, report: new(Refolded), logs: natslog.New(h.JS, 0), log: log, state: state, patience: refoldPatience}
	requireCannotTell(t, r.part, r.absent(h.Ctx, 1, 1), "record 1 is in the message log, and did not come")
}

// TestRefoldOutlastsAStalledConsumer: a consumer that delivers nothing, though the message log has more, is no message that is missing.
func TestRefoldOutlastsAStalledConsumer(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	h.Ask(sequencertest.Send("c", "1"))
	h.Messages(1)
	messages, err := messagelog.Open(h.Ctx, h.JS, 0)
	require.NoError(t, err)
	reader, err := messages.ReadRecords(h.Ctx, 2)
	require.NoError(t, err)
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	names := stream.ConsumerNames(h.Ctx)
	for name := range names.Name() {
		_, err := stream.PauseConsumer(h.Ctx, name, time.Now().Add(time.Hour))
		require.NoError(t, err)
	}
	require.NoError(t, names.Err())
	h.Ask(sequencertest.Send("c", "2"))
	h.Messages(2)
	stop()

	r := &comparison{js: h.JS, part: &audit.Part{}, logs: natslog.New(h.JS, 0), log: messages, messages: reader, patience: time.Second}
	defer reader.Stop()
	require.ErrorContains(t, r.read(h.Ctx, 2), "record 2 is in the message log, and did not come within 1s")
	r.patience = refoldPatience
	require.NoError(t, r.read(h.Ctx, 2))
	require.NotNil(t, r.ahead)
	require.EqualValues(t, 2, r.ahead.Seq)
	r.ahead, r.patience = nil, time.Second
	require.NoError(t, r.read(h.Ctx, 3))
	require.Nil(t, r.ahead, "the log has no third")
}

func TestRefoldFindsWhatDiffers(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	for i := range 30 {
		h.Ask(sequencertest.Send("c", strconv.Itoa(i)), sequencertest.Send("c", strconv.Itoa(i)))
	}
	h.Messages(30)
	report, err := Refold(h.Ctx, h.JS, h.Deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Zero(t, report.Differences)
	require.Equal(t, []uint64{60, 30}, []uint64{report.Details.(*Refolded).Sends, report.Compared})
	stop()

	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(h.Ctx, 7))
	h.Put([]byte("a foreign record"))
	report, err = Refold(h.Ctx, h.JS, h.Deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.EqualValues(t, 2, report.Differences)
	require.Contains(t, report.First[0], "record 7 of the message log is missing: 1 messages, up to message 7")
	require.Contains(t, report.First[1], "had 31 records, the write-ahead log makes 30")
}

// TestRefoldNamesWhatIsOtherInARecord: a message with other content, and a head that says something else.
func TestRefoldNamesWhatIsOtherInARecord(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	for i := range 3 {
		no := strconv.Itoa(i)
		h.Ask(sequencertest.Send("c", no), sequencertest.Send("c", no), sequencertest.Send("d", no))
	}
	whole := h.Messages(6)
	stop()
	encode := func(m *message.Message) []byte {
		data, err := m.MarshalVT()
		require.NoError(t, err)
		return data
	}
	h.DeleteMessageLog()
	h.Ensure()
	whole[1].Payload = []byte("changed")
	h.Put(testkit.MessageBatch(1, encode(whole[0]), encode(whole[1])))
	h.Put(testkit.MessageBatch(4, encode(whole[2]), encode(whole[3])))
	h.Put(testkit.MessageBatch(5, encode(whole[4])))
	report, err := Refold(h.Ctx, h.JS, h.Deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.EqualValues(t, 3, report.Differences, report.First)
	require.EqualValues(t, 6, report.Compared)
	require.Contains(t, report.First[0], "message_seq 1 of channel 2/d (partition_seq 2, message_id ")
	require.Contains(t, report.First[0], "record 1) has other content")
	require.Contains(t, report.First[1], "record 2 of the message log holds 2 messages from 4 on")
	require.Contains(t, report.First[2], "record 3 of the message log holds 1 messages from 5 on")
}

// TestRefoldContinuesAfterAForeignRecord: a record that is no MessageBatch is a difference like another, also where the one before it is
// missing, and so is each record that has a message too many or names another newest ID.
func TestRefoldContinuesAfterAForeignRecord(t *testing.T) {
	t.Parallel()
	h := setup(t)
	_, stop := h.Start()
	for i := range 7 {
		h.Ask(sequencertest.Send("c", strconv.Itoa(i)))
	}
	whole := h.Messages(7)
	stop()
	encoded := make([][]byte, len(whole))
	for i, m := range whole {
		var err error
		encoded[i], err = m.MarshalVT()
		require.NoError(t, err)
	}
	h.DeleteMessageLog()
	h.Ensure()
	newest := message.AppendBatchHead(nil, 6, message.ID(whole[5].GetMessageId())+1)
	for i, record := range [][]byte{
		testkit.MessageBatch(1, encoded[0]),
		[]byte("no batch"),
		testkit.MessageBatch(3, encoded[2]), // deleted below
		[]byte("no batch"),
		testkit.MessageBatch(5, encoded[4], encoded[4]),
		append(newest, testkit.MessageBatch(6, encoded[5])[len(newest):]...),
		testkit.MessageBatch(7, encoded[6]),
	} {
		require.Equal(t, i == 5, bytes.HasPrefix(record, newest))
		h.Put(record)
	}
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(h.Ctx, 3))
	report, err := Refold(h.Ctx, h.JS, h.Deployment, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for i, want := range []string{
		"record 2 of the message log: not an encoded MessageBatch",
		"record 3 of the message log is missing",
		"record 4 of the message log: not an encoded MessageBatch",
		"record 5 of the message log holds 2 messages from 5 on",
		fmt.Sprintf("record 6 of the message log holds 1 messages from 6 on, up to message_id %d, wanted 1 up to message 6 and message_id %d", whole[5].GetMessageId()+1, whole[5].GetMessageId()),
	} {
		require.Contains(t, report.First[i], want)
	}
	require.EqualValues(t, 5, report.Differences, report.First)
	require.EqualValues(t, 6, report.Compared)
}

// TestRefoldNamesAnEndThatIsDeleted: that the stream counts a record does not mean that it has it.
func TestRefoldNamesAnEndThatIsDeleted(t *testing.T) {
	t.Parallel()
	h := setup(t)
	h.Answered(3)
	stream, err := h.JS.Stream(h.Ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(h.Ctx, 3))
	report, err := Refold(h.Ctx, h.JS, h.Deployment, 0, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "the message log ends before record 3")
	require.EqualValues(t, 1, report.Differences)
	require.Contains(t, report.First[0], "record 3 of the message log is missing")
}
