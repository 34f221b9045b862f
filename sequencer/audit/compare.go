package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/natslog"
	"github.com/sendhouse/sendhouse/sequencer/refold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// refoldPatience is how long the message log may take for the next message that
// the write-ahead log says must be there.
const refoldPatience = 10 * time.Second

// Refolded is what comparing one partition covered.
type Refolded struct {
	FromWALSeq uint64 `json:"from_wal_seq"` // first record folded
	LastWALSeq uint64 `json:"last_wal_seq"`
	Sends      uint64 `json:"sends"`
	Dropped    uint64 `json:"dropped"` // messages that retention has taken, not compared
}

// refoldAttempts is how often a comparison is begun again that the trimming of the
// write-ahead log has overtaken.
const refoldAttempts = 3

// Refold folds the retained write-ahead log of a partition again, from the oldest
// state that it continues, and compares what comes out with the message log:
// record by record, byte for byte. It may run beside a working sequencer and
// looks at what was written when it began. A difference is not an error. The part
// is never nil; its details are a [*Refolded].
func Refold(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, number int, log *slog.Logger) (*audit.Part, error) {
	for attempt := 1; ; attempt++ {
		part, err := refoldOnce(ctx, js, deployment, number, log)
		if attempt < refoldAttempts && ctx.Err() == nil && errors.Is(err, fold.ErrNotNext) {
			log.Info("the write-ahead log was trimmed meanwhile, folding it from a newer checkpoint", "partition", number)
			continue
		}
		return part, err
	}
}

func refoldOnce(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, number int, log *slog.Logger) (*audit.Part, error) {
	logs := natslog.New(js, number)
	r := &comparison{part: &audit.Part{Check: "refold", Partition: number}, report: new(Refolded), js: js, logs: logs, progress: audit.NewProgress(log, "refold", number)}
	r.part.Details = r.report
	// The messages first: each of them comes from a record that the log has by now.
	messages, err := messagelog.Open(ctx, js, number)
	if err != nil {
		return r.part, err
	}
	bounds, err := messages.Records(ctx)
	if err != nil {
		return r.part, err
	}
	wal, err := logs.WALBounds(ctx)
	if err != nil {
		return r.part, err
	}
	starts, err := refold.FindStarts(ctx, js, deployment, number, wal)
	if err != nil {
		return r.part, err
	}
	if r.state, err = starts.Oldest(ctx); err != nil {
		return r.part, err
	}
	r.report.FromWALSeq, r.report.LastWALSeq = r.state.WALSeq()+1, wal.Last
	r.from, r.last = max(r.state.WALSeq()+1, bounds.First), bounds.Last
	if r.messages, err = messages.ReadRecords(ctx, r.from); err != nil {
		return r.part, err
	}
	defer func() { r.messages.Stop() }()
	if made := min(r.state.WALSeq(), bounds.Last); made >= bounds.First {
		r.part.Omit("records %d to %d of the message log: those that they were made from, up to %d, have been trimmed from the write-ahead log", bounds.First, made, r.state.WALSeq())
	}
	r.log, r.patience = messages, refoldPatience
	err = r.run(ctx, wal)
	if r.part.Differences > 0 {
		r.part.Mend("sendhouse repair message-log --partition %d", number)
	}
	if r.report.Dropped > 0 {
		r.part.Omit("%d messages that the write-ahead log still makes and retention has taken from the message log", r.report.Dropped)
	}
	return r.part, err
}

type comparison struct {
	part     *audit.Part
	report   *Refolded
	progress *audit.Progress
	js       jetstream.JetStream
	logs     *natslog.Logs
	patience time.Duration
	state    *fold.State
	log      *messagelog.Log
	messages *messagelog.Reader
	ahead    *messagelog.Record // read and not compared yet
	from     uint64             // the first record to compare
	last     uint64             // the log's last when the comparison began
	data     []byte
}

func (r *comparison) run(ctx context.Context, wal runner.Bounds) error {
	if err := refold.To(ctx, r.logs, r.state, wal.Last, func(effects []fold.Effect) error { return r.compare(ctx, effects) }); err != nil {
		return err
	}
	if r.last > r.state.WALSeq() {
		// Written while the comparison ran, or by a foreign hand: what was there at its
		// start must have come from the records that were.
		r.part.Differ("the message log had %d records, the write-ahead log makes %d", r.last, r.state.WALSeq())
	}
	return nil
}

// compare holds the message log's next record against what the last one folded became.
func (r *comparison) compare(ctx context.Context, effects []fold.Effect) error {
	r.report.Sends += uint64(len(effects))
	want := r.state.WALSeq()
	var messages int
	r.data, messages = runner.Derive(r.data[:0], r.state, effects)
	if want < r.from {
		r.report.Dropped += uint64(messages)
		return nil
	}
	if r.ahead == nil {
		if err := r.read(ctx, want); err != nil {
			return err
		}
	}
	if r.ahead == nil || r.ahead.Seq > want {
		return r.absent(ctx, want, messages)
	}
	have := r.ahead
	r.ahead = nil
	r.part.Compared += uint64(messages)
	r.progress.At(want, r.last)
	if !bytes.Equal(have.Data, r.data) {
		r.differ(have, effects)
	}
	return nil
}

// absent finds out why the message log has no record of a sequence. It looks at the log's end first: what was not
// derived yet, or lost and is derived again, may come meanwhile, and is no difference.
func (r *comparison) absent(ctx context.Context, seq uint64, messages int) error {
	bounds, err := r.log.Records(ctx)
	if err != nil {
		return err
	}
	if seq < bounds.First {
		r.report.Dropped += uint64(messages) // by retention, since the comparison began
		return nil
	}
	if r.ahead == nil {
		if bounds.Last < seq {
			return fmt.Errorf("partition %d: the message log ends at record %d, and the write-ahead log makes %d: it is derived later, by a sequencer that works; try again then",
				r.part.Partition, bounds.Last, seq)
		}
		if err := r.late(ctx, seq); err != nil {
			return err
		}
	}
	r.part.Differ("record %d of the message log is missing: %d messages, up to message %d", seq, messages, r.state.Output())
	if r.ahead == nil {
		return fmt.Errorf("partition %d: the message log ends before record %d", r.part.Partition, seq)
	}
	return nil
}

// differ names what is wrong in a record: messages, as far as each has one of its own to be held against.
func (r *comparison) differ(have *messagelog.Record, effects []fold.Effect) {
	var batch message.BatchView
	if err := message.ViewBatch(have.Data, &batch); err != nil {
		r.part.Differ("record %d of the message log: %v", have.Seq, err)
		return
	}
	found, messages := false, 0
	for i := range effects {
		e := &effects[i]
		if e.Output == 0 {
			continue
		}
		if messages < len(batch.Messages) && !bytes.Equal(batch.Messages[messages], message.AppendMessage(nil, e.Send, e.Identity)) {
			found = true
			r.part.Differ("%s (record %d) has other content", r.name(e), have.Seq)
		}
		messages++
	}
	if !found {
		r.part.Differ("record %d of the message log holds %d messages from %d on, up to message_id %d, wanted %d up to message %d and message_id %d",
			have.Seq, len(batch.Messages), batch.First, batch.NewestID, messages, r.state.Output(), r.state.LastID())
	}
}

// name names the message that a send became.
func (r *comparison) name(e *fold.Effect) string {
	m := message.Message{
		MessageId: uint64(e.Identity.ID), MessageSeq: e.Identity.Seq, ChannelId: string(e.View.ChannelID), ChannelType: uint32(e.View.ChannelType),
	}
	return audit.MessageName(&m, e.Output)
}

// read waits for the message log's record at a sequence or behind it; ahead stays nil where there is none. That nothing has come
// proves nothing: the stream's leader is asked in the end.
func (r *comparison) read(ctx context.Context, seq uint64) error {
	wait, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	for {
		var err error
		if r.ahead, err = r.messages.NextRecord(wait); err == nil {
			return nil
		}
		if errors.Is(err, message.ErrNotAMessageBatch) {
			return r.readForeign(ctx, seq)
		}
		if wait.Err() != nil && ctx.Err() == nil {
			break
		}
		if !errors.Is(err, messagelog.ErrQuiet) {
			return err
		}
	}
	return r.late(ctx, seq)
}

// late is an error where the message log has a record at a sequence or behind it, which the reader was not given.
func (r *comparison) late(ctx context.Context, seq uint64) error {
	raw, err := r.stored(ctx, seq)
	if err != nil || raw == nil {
		return err
	}
	return fmt.Errorf("partition %d: record %d is in the message log, and did not come within %s", r.part.Partition, raw.Sequence, r.patience)
}

// readForeign takes the record that the reader cannot get past, which is one to be compared like any other, and reads on behind it.
func (r *comparison) readForeign(ctx context.Context, seq uint64) error {
	raw, err := r.stored(ctx, seq)
	if err != nil || raw == nil {
		return err
	}
	reader, err := r.log.ReadRecords(ctx, raw.Sequence+1)
	if err != nil {
		return err
	}
	r.messages.Stop()
	r.messages = reader
	r.ahead = &messagelog.Record{Partition: r.part.Partition, Seq: raw.Sequence, Data: raw.Data}
	return nil
}

// stored asks the stream's leader for the message log's first record at a sequence or behind it; nil where there is none.
func (r *comparison) stored(ctx context.Context, seq uint64) (*jetstream.RawStreamMsg, error) {
	return storedRecord(ctx, r.js, r.part.Partition, seq)
}

func storedRecord(ctx context.Context, js jetstream.JetStream, partition int, seq uint64) (*jetstream.RawStreamMsg, error) {
	raw, err := broker.NextRecord(ctx, js, topology.MessagesStream(partition), seq, topology.MessagesSubject(partition))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look for record %d of the message log of partition %d: %w", seq, partition, err)
	}
	return raw, nil
}

// Audit checks all partitions: that the message log is what the write-ahead log
// makes, and that its messages follow one another as they must.
func Audit(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, memoryBytesMax int64, log *slog.Logger, report *audit.Report) {
	for p := range deployment.Partitions {
		part, err := Refold(ctx, js, deployment, p, log)
		report.Add(log, part, err)
		part, err = Chain(ctx, js, p, memoryBytesMax, log)
		report.Add(log, part, err)
	}
}
