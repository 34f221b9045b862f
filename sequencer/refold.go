package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// refoldPatience is how long the message log may take for the next message that
// the write-ahead log says must be there.
const refoldPatience = 10 * time.Second

// Refolded is what comparing one partition came to.
type Refolded struct {
	Partition   int      `json:"partition"`
	FromWALSeq  uint64   `json:"from_wal_seq"` // first record folded
	LastWALSeq  uint64   `json:"last_wal_seq"`
	Sends       uint64   `json:"sends"`
	Compared    uint64   `json:"compared"` // messages
	Dropped     uint64   `json:"dropped"`  // messages that retention has taken, not compared
	Differences uint64   `json:"differences"`
	First       []string `json:"first_differences"` // at most differencesKept
}

// differencesKept is how many differences of a partition are described; all are
// counted.
const differencesKept = 20

// Refold folds the retained write-ahead log of a partition again, from the oldest
// state that it continues, and compares what comes out with the message log:
// sequence by sequence, byte for byte. It may run beside a working sequencer and
// looks at what was written when it began. A difference is not an error.
func Refold(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, number int) (*Refolded, error) {
	logs := &natsLogs{nc: js.Conn(), js: js, partition: number}
	wal, err := logs.WALBounds(ctx)
	if err != nil {
		return nil, err
	}
	state, err := oldestState(ctx, js, deployment, number, wal)
	if err != nil {
		return nil, err
	}
	r := &refold{report: &Refolded{Partition: number, FromWALSeq: state.WALSeq() + 1, LastWALSeq: wal.Last}, logs: logs, state: state}
	if err := r.openMessages(ctx); err != nil {
		return nil, err
	}
	defer r.close()
	return r.report, r.run(ctx, wal)
}

// oldestState is the empty state where the write-ahead log is whole, else the
// oldest kept checkpoint that it continues.
func oldestState(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, number int, wal runner.Bounds) (*fold.State, error) {
	params := fold.Params{Partition: number, DedupWindow: deployment.DedupWindow, DedupEntriesMax: deployment.DedupEntriesMax}
	if wal.First <= 1 {
		return fold.New(params)
	}
	checkpoints, err := openCheckpoints(ctx, js, number)
	if err != nil {
		return nil, err
	}
	kept, err := checkpoints.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, meta := range slices.Backward(kept.Metas) {
		if meta.WALSeq+1 >= wal.First {
			return checkpoints.Load(ctx, meta, params)
		}
	}
	return nil, fmt.Errorf("%w: the write-ahead log starts at record %d, and no checkpoint reaches it", runner.ErrMissing, wal.First)
}

type refold struct {
	report   *Refolded
	logs     *natsLogs
	state    *fold.State
	messages jetstream.MessagesContext
	ahead    jetstream.Msg // read and not compared yet
	next     uint64        // stream sequence after the last read
	from     uint64        // stream sequence of the first to compare
	last     uint64        // its last when the comparison began
	data     []byte
}

// openMessages reads the message log from the first message that is both kept
// there and made again here.
func (r *refold) openMessages(ctx context.Context) error {
	stream, err := r.logs.js.Stream(ctx, topology.MessagesStream(r.report.Partition))
	if err != nil {
		return fmt.Errorf("look at the message log: %w", err)
	}
	state := stream.CachedInfo().State
	r.last = state.LastSeq
	r.from = max(r.state.Output()+1, state.FirstSeq)
	if state.Msgs == 0 {
		r.from = state.LastSeq + 1
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.from})
	if err == nil {
		r.messages, err = consumer.Messages(jetstream.PullMaxBytes(readAheadBytes))
	}
	if err != nil {
		return fmt.Errorf("read the message log from %d: %w", r.from, err)
	}
	return nil
}

func (r *refold) close() { r.messages.Stop() }

func (r *refold) run(ctx context.Context, wal runner.Bounds) error {
	if r.state.WALSeq() < wal.Last {
		reader, err := r.logs.ReadWAL(ctx, r.state.WALSeq()+1)
		if err != nil {
			return err
		}
		defer reader.Stop()
		var effects []fold.Effect
		for r.state.WALSeq() < wal.Last {
			record, err := reader.Next(ctx)
			if err != nil {
				return err
			}
			effects, err = r.state.Fold(record.Record, effects[:0])
			if err != nil && !errors.Is(err, fold.ErrMalformed) {
				return err
			}
			if err := r.compare(ctx, effects); err != nil {
				return err
			}
		}
	}
	if r.last > r.state.Output() {
		// Written while the comparison ran, or by a foreign hand: what was there at its
		// start must have come from the records that were.
		r.differ("the message log had %d messages, the write-ahead log makes %d", r.last, r.state.Output())
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
		if err := r.read(ctx); err != nil {
			return err
		}
	}
	if r.ahead == nil || r.next-1 > e.Output {
		r.differ("message %d (message_id %d, record %d) is missing", e.Output, e.Identity.ID, e.Identity.WALSeq)
		if r.ahead == nil {
			return fmt.Errorf("partition %d: the message log ends before message %d", r.report.Partition, e.Output)
		}
		return nil
	}
	m := r.ahead
	r.ahead = nil
	r.report.Compared++
	subject := string(topology.AppendMessageSubject(nil, r.report.Partition, e.View.ChannelType, string(e.View.ChannelID)))
	switch {
	case m.Subject() != subject:
		r.differ("message %d is on subject %s, wanted %s", e.Output, m.Subject(), subject)
	case !bytes.Equal(m.Data(), r.data):
		r.differ("message %d (message_id %d, record %d) has other content", e.Output, e.Identity.ID, e.Identity.WALSeq)
	}
	return nil
}

// read waits for the next message of the message log; ahead stays nil where none
// comes.
func (r *refold) read(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, refoldPatience)
	defer cancel()
	m, err := r.messages.Next(jetstream.NextContext(wait))
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the message log: %w", err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read the message log: %w", err)
	}
	r.ahead, r.next = m, meta.Sequence.Stream+1
	return nil
}

func (r *refold) differ(format string, args ...any) {
	r.report.Differences++
	if len(r.report.First) < differencesKept {
		r.report.First = append(r.report.First, fmt.Sprintf(format, args...))
	}
}

// Audit refolds all partitions, logs what it finds, and fails where there are
// differences.
func Audit(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, log *slog.Logger) ([]*Refolded, error) {
	var all []*Refolded
	var errs []error
	for p := range deployment.Partitions {
		report, err := Refold(ctx, js, deployment, p)
		if report != nil {
			all = append(all, report)
			log.Info("refolded", "partition", p, "from_wal_seq", report.FromWALSeq, "last_wal_seq", report.LastWALSeq, "sends", report.Sends,
				"compared", report.Compared, "dropped", report.Dropped, "differences", report.Differences)
			if report.Differences > 0 {
				errs = append(errs, fmt.Errorf("partition %d: %d differences, first: %s", p, report.Differences, report.First[0]))
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}
