package sequencer

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
// sequence by sequence, byte for byte. It may run beside a working sequencer and
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
	logs := &natsLogs{nc: js.Conn(), js: js, partition: number}
	r := &refold{part: &audit.Part{Check: "refold", Partition: number}, report: new(Refolded), logs: logs, progress: audit.NewProgress(log, "refold", number)}
	r.part.Details = r.report
	// The messages first: each of them comes from a record that the log has by now.
	messages, err := messagelog.Open(ctx, js, number)
	if err != nil {
		return r.part, err
	}
	bounds, err := messages.Bounds(ctx)
	if err != nil {
		return r.part, err
	}
	wal, err := logs.WALBounds(ctx)
	if err != nil {
		return r.part, err
	}
	starts, err := findStartStates(ctx, js, deployment, number, wal)
	if err != nil {
		return r.part, err
	}
	if r.state, err = starts.oldest(ctx); err != nil {
		return r.part, err
	}
	r.report.FromWALSeq, r.report.LastWALSeq = r.state.WALSeq()+1, wal.Last
	r.from, r.last = max(r.state.Output()+1, bounds.First), bounds.Last
	if r.messages, err = messages.Read(ctx, r.from); err != nil {
		return r.part, err
	}
	defer func() { r.messages.Stop() }()
	if made := min(r.state.Output(), bounds.Last); made >= bounds.First {
		r.part.Omit("messages %d to %d: the records that they were made from, up to %d, have been trimmed from the write-ahead log", bounds.First, made, r.state.WALSeq())
	}
	r.log, r.js, r.patience = messages, js, refoldPatience
	err = r.run(ctx, wal)
	if r.report.Dropped > 0 {
		r.part.Omit("%d messages that the write-ahead log still makes and retention has taken from the message log", r.report.Dropped)
	}
	return r.part, err
}

type refold struct {
	part     *audit.Part
	report   *Refolded
	progress *audit.Progress
	logs     *natsLogs
	js       jetstream.JetStream
	patience time.Duration
	state    *fold.State
	log      *messagelog.Log
	messages *messagelog.Reader
	ahead    *messagelog.Record // read and not compared yet
	from     uint64             // stream sequence of the first to compare
	last     uint64             // the log's last when the comparison began
	data     []byte
}

func (r *refold) run(ctx context.Context, wal runner.Bounds) error {
	if err := foldTo(ctx, r.logs, r.state, wal.Last, func(effects []fold.Effect) error { return r.compare(ctx, effects) }); err != nil {
		return err
	}
	if r.last > r.state.Output() {
		// Written while the comparison ran, or by a foreign hand: what was there at its
		// start must have come from the records that were.
		r.part.Differ("the message log had %d messages, the write-ahead log makes %d", r.last, r.state.Output())
	}
	return nil
}

func (r *refold) compare(ctx context.Context, effects []fold.Effect) error {
	for i := range effects {
		e := &effects[i]
		r.report.Sends++
		switch {
		case e.Output == 0:
			continue
		case e.Output < r.from:
			r.report.Dropped++
			continue
		}
		r.data = message.AppendMessage(r.data[:0], e.Send, e.Identity)
		if err := r.compareOne(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// compareOne holds the message log's next message against the one made here.
func (r *refold) compareOne(ctx context.Context, e *fold.Effect) error {
	if r.ahead == nil {
		if err := r.read(ctx, e.Output); err != nil {
			return err
		}
	}
	if r.ahead == nil || r.ahead.Seq > e.Output {
		bounds, err := r.log.Bounds(ctx)
		if err != nil {
			return err
		}
		if r.ahead != nil && e.Output < bounds.First {
			r.report.Dropped++ // by retention, since the comparison began
			return nil
		}
		r.part.Differ("message %d (message_id %d, record %d) is missing", e.Output, e.Identity.ID, e.Identity.WALSeq)
		if r.ahead == nil {
			return fmt.Errorf("partition %d: the message log ends before message %d", r.part.Partition, e.Output)
		}
		return nil
	}
	m := r.ahead
	r.ahead = nil
	r.part.Compared++
	r.progress.At(e.Output, r.last)
	subject := string(topology.AppendMessageSubject(nil, r.part.Partition, e.View.ChannelType, string(e.View.ChannelID)))
	switch {
	case m.Subject != subject:
		r.part.Differ("message %d is on subject %s, wanted %s", e.Output, m.Subject, subject)
	case !bytes.Equal(m.Data, r.data):
		r.part.Differ("message %d (message_id %d, record %d) has other content", e.Output, e.Identity.ID, e.Identity.WALSeq)
	}
	return nil
}

// read waits for the message log's message at a sequence or behind it; ahead stays nil where there is none. That nothing has come
// proves nothing: the stream's leader is asked in the end.
func (r *refold) read(ctx context.Context, seq uint64) error {
	wait, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	for {
		m, err := r.messages.Next(wait)
		if err == nil {
			r.ahead = &m
			return nil
		}
		if wait.Err() != nil && ctx.Err() == nil {
			break
		}
		if !errors.Is(err, messagelog.ErrQuiet) {
			return err
		}
	}
	_, err := broker.NextRecord(ctx, r.js, topology.MessagesStream(r.part.Partition), seq, topology.MessagesSubjects(r.part.Partition))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("look for message %d of partition %d: %w", seq, r.part.Partition, err)
	}
	return fmt.Errorf("partition %d: message %d is in the message log, and did not come within %s", r.part.Partition, seq, r.patience)
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
