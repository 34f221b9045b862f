// Package repair mends the logs of a partition that a sequencer refuses.
package repair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/checkpoint"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/natslog"
	"github.com/sendhouse/sendhouse/sequencer/refold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// Options are the flags of the repairs of one partition.
type Options struct {
	command.Repair
	Partition int `help:"The partition to repair." required:"" env:"-"`
}

// Check implements config.Checker.
func (o Options) Check() error {
	if o.Partition < 0 || o.Partition >= topology.PartitionsMax {
		return errors.Join(o.Repair.Check(), fmt.Errorf("--partition %d: must be 0 to %d", o.Partition, topology.PartitionsMax-1))
	}
	return o.Repair.Check()
}

// ErrCannotRepair wraps why a repair is not possible, or would lose what another one keeps.
var ErrCannotRepair = errors.New("cannot be repaired this way")

// MessageLogCommand is `sendhouse repair message-log`.
type MessageLogCommand struct{ Options }

// WALCommand is `sendhouse repair wal`.
type WALCommand struct{ Options }

// Run cuts the message log before its first record that is not what the write-ahead log makes, and has the owner of the
// partition derive the rest again.
func (c *MessageLogCommand) Run(in *command.Invocation) error {
	return c.ask(in, repairMessageLog)
}

// Run continues the partition after the message log's last record, when the write-ahead log has lost records that were
// answered.
func (c *WALCommand) Run(in *command.Invocation) error { return c.ask(in, repairWAL) }

func (o Options) ask(in *command.Invocation, repair func(context.Context, *repairing, io.Writer, bool) error) error {
	return o.Ask(in, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		if o.Partition < 0 || o.Partition >= deployment.Partitions {
			return fmt.Errorf("partition %d: the deployment has partitions 0 to %d", o.Partition, deployment.Partitions-1)
		}
		r, err := newRepairing(ctx, js, deployment, o.Partition)
		if err == nil {
			err = repair(ctx, r, in.Stdout, o.Yes)
		}
		if err != nil {
			return fmt.Errorf("repair partition %d: %w", o.Partition, err)
		}
		return nil
	})
}

// repairing is what a repair knows of a partition.
type repairing struct {
	js          jetstream.JetStream
	partition   int
	params      fold.Params
	logs        *natslog.Logs
	checkpoints *checkpoint.Store
	wal         runner.Bounds
	log         messagelog.Records
	noLog       bool // there is no message log
	deployment  topology.Deployment
}

func newRepairing(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment, number int) (*repairing, error) {
	r := &repairing{
		js: js, deployment: deployment, partition: number, logs: natslog.New(js, number),
		params: fold.Params{Partition: number, DedupWindow: deployment.DedupWindow, DedupEntriesMax: deployment.DedupEntriesMax},
	}
	messages, err := messagelog.Open(ctx, js, number)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		r.noLog, r.log = true, messagelog.Records{First: 1}
	case err != nil:
		return nil, err //nolint:wrapcheck // says what was being done
	default:
		if r.log, err = messages.Records(ctx); err != nil {
			return nil, err //nolint:wrapcheck // says what was being done
		}
	}
	if r.wal, err = r.logs.WALBounds(ctx); errors.Is(err, jetstream.ErrStreamNotFound) {
		r.wal, err = runner.Bounds{First: 1}, nil // a repair of it was interrupted, or it was deleted
	}
	if err != nil {
		return nil, err
	}
	r.checkpoints, err = checkpoint.Open(ctx, js, number)
	return r, err
}

// finding is what comparing the message log with both of its sources came to. Both are 0 if nothing is wrong.
type finding struct {
	// differs is the first record that is not what the write-ahead log makes of its record.
	differs uint64
	// foreign is the first record that cannot follow the one before it, whatever the write-ahead log holds.
	foreign uint64
	reason  error // why it cannot
}

// examine compares the message log with what the write-ahead log makes, as far back as there is a state to begin with.
func (r *repairing) examine(ctx context.Context, starts *refold.Starts) (finding, error) {
	var f finding
	state, err := starts.Oldest(ctx)
	if err != nil {
		return f, err
	}
	f.foreign, f.reason, err = r.adopt(ctx, state, r.log.Last)
	if err != nil {
		return f, err
	}
	if state, err = starts.Oldest(ctx); err != nil {
		return f, err
	}
	f.differs, err = r.compare(ctx, state, r.log.Last)
	if f.differs == 0 && r.log.Last > r.wal.Last {
		f.differs = r.wal.Last + 1
	}
	return f, err
}

// compare folds the write-ahead log from a state on, up to the record last of the message log or as far as it goes, and returns the
// first record of the message log that is not what it makes, 0 if there is none.
func (r *repairing) compare(ctx context.Context, state *fold.State, last uint64) (differs uint64, err error) {
	records, err := r.read(ctx, state.WALSeq()+1)
	if err != nil {
		return 0, err
	}
	defer records.stop()
	var derived []byte
	err = refold.To(ctx, r.logs, state, min(r.wal.Last, last), func(effects []fold.Effect) error {
		if differs > 0 || state.WALSeq() < r.log.First {
			return nil
		}
		derived, _ = runner.Derive(derived[:0], state, effects)
		have, err := records.at(ctx, state.WALSeq())
		if err == nil && !bytes.Equal(have, derived) {
			differs = state.WALSeq()
		}
		return err
	})
	return differs, err
}

// adopt brings a state up to the message log's record last. If a record does not follow the one before it, it returns the
// record and the reason.
func (r *repairing) adopt(ctx context.Context, state *fold.State, last uint64) (uint64, error, error) {
	if state.WALSeq() >= last {
		return 0, nil, nil
	}
	records, err := r.read(ctx, state.WALSeq()+1)
	if err != nil {
		return 0, nil, err
	}
	defer records.stop()
	for seq := state.WALSeq() + 1; seq <= last; seq++ {
		data, err := records.at(ctx, seq)
		if err != nil {
			return 0, nil, err
		}
		if data == nil {
			return seq, errors.New("it is missing"), nil
		}
		var batch message.BatchView
		err = message.ViewBatch(data, &batch)
		if err == nil {
			err = state.Adopt(seq, &batch)
		}
		if err != nil {
			return seq, err, nil
		}
	}
	return 0, nil, nil
}

// rawRecords reads the records of the message log as they are.
type rawRecords struct {
	reader    *broker.OrderedReader
	last      uint64
	streamSeq uint64 // stream sequence of data
	data      []byte
}

func (r *repairing) read(ctx context.Context, from uint64) (*rawRecords, error) {
	reader, err := broker.ReadOrdered(ctx, r.js, topology.MessagesStream(r.partition), from)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what was being done
	}
	return &rawRecords{reader: reader, last: r.log.Last}, nil
}

func (r *rawRecords) stop() { r.reader.Stop() }

// recordWait is how long a record that the log has may take to come.
const recordWait = 20 * time.Second

// at returns the record with a sequence, nil if there is none. Sequences must grow from call to call.
func (r *rawRecords) at(ctx context.Context, streamSeq uint64) ([]byte, error) {
	if streamSeq > r.last {
		return nil, nil
	}
	wait, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	for r.streamSeq < streamSeq {
		m, err := r.reader.Next(jetstream.NextContext(wait))
		if err != nil {
			return nil, fmt.Errorf("read record %d of the message log: %w", streamSeq, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("read record %d of the message log: %w", streamSeq, err)
		}
		r.streamSeq, r.data = meta.Sequence.Stream, m.Data()
	}
	if r.streamSeq > streamSeq {
		return nil, nil
	}
	return r.data, nil
}

func repairMessageLog(ctx context.Context, r *repairing, out io.Writer, yes bool) error {
	starts, err := refold.FindStarts(ctx, r.js, r.deployment, r.partition, r.wal)
	if err != nil {
		return err
	}
	if r.noLog {
		return r.makeLogAgain(ctx, starts, out, yes)
	}
	f, err := r.examine(ctx, starts)
	switch {
	case err != nil:
		return err
	case f.differs == 0:
		return command.Say(out, "partition %d: the message log is what the write-ahead log makes, up to record %d; nothing to repair\n", r.partition, min(r.wal.Last, r.log.Last))
	case f.foreign == 0 || f.foreign > f.differs:
		return fmt.Errorf("%w: record %d of the message log follows the one before it, and the write-ahead log, which ends at %d, makes something else or nothing: "+
			"the write-ahead log has lost records that were answered; use 'sendhouse repair wal --partition %d'", ErrCannotRepair, f.differs, r.wal.Last, r.partition)
	}
	err = command.Confirm(out, yes, "partition %d: record %d of the message log is wrong (%v).\nRecords %d to %d stay. Records %d to %d are removed, and those that the write-ahead log makes are derived again, with the same answers.\n",
		r.partition, f.foreign, f.reason, r.log.First, f.foreign-1, f.foreign, r.log.Last)
	if err != nil {
		return err
	}
	if err := broker.RequestCut(ctx, r.js, topology.MessagesStream(r.partition), f.foreign-1); err != nil {
		return err //nolint:wrapcheck // says what was being done
	}
	return command.Say(out, "Requested. The partition's sequencer does it at its next attempt, within 30 s; 'sendhouse sequencer status' shows when the partition is served again.\n")
}

// makeLogAgain makes a message log that is gone again, to begin with the oldest record that can be derived.
func (r *repairing) makeLogAgain(ctx context.Context, starts *refold.Starts, out io.Writer, yes bool) error {
	state, err := starts.Oldest(ctx)
	if err != nil {
		return err
	}
	err = command.Confirm(out, yes, "partition %d: there is no message log. It is made again, and records %d to %d are derived. Up to message %d it stays without the messages before them; rows of these are in ClickHouse alone.\n",
		r.partition, state.WALSeq()+1, r.wal.Last, state.PartitionSeq())
	if err != nil {
		return err
	}
	options := topology.DefaultOptions()
	wal, err := r.walConfig(ctx)
	if err != nil {
		return err
	}
	options.Replicas = wal.Replicas
	wanted, err := options.StreamConfigs(r.deployment)
	if err != nil {
		return err //nolint:wrapcheck // says what is wrong
	}
	for _, config := range wanted {
		if config.Name != topology.MessagesStream(r.partition) {
			continue
		}
		config.FirstSeq = state.WALSeq() + 1
		if _, err := broker.CreateStream(ctx, r.js, config); err != nil {
			return fmt.Errorf("make the message log again: %w", err)
		}
	}
	return command.Say(out, "Done. The partition's sequencer derives it at its next attempt, within 30 s.\n")
}

// repairWAL stores a checkpoint at the message log's end, made from an older state and the message log, and makes the
// write-ahead log again, empty, to continue after it. Until both are done the sequencer refuses the partition; each step may
// be repeated.
func repairWAL(ctx context.Context, r *repairing, out io.Writer, yes bool) error {
	if r.noLog {
		return fmt.Errorf("%w: there is no message log either; see 'sendhouse repair message-log --partition %d'", ErrCannotRepair, r.partition)
	}
	kept, err := r.checkpoints.Claim(ctx)
	if err != nil {
		return err
	}
	state, err := r.newestState(ctx, kept)
	if err != nil {
		return err
	}
	if state.WALSeq() > r.log.Last {
		return fmt.Errorf("%w: the newest checkpoint was taken at record %d, and the message log ends at %d: the messages between them, up to partition_seq %d, are in neither log; restore the streams from a backup",
			ErrCannotRepair, state.WALSeq(), r.log.Last, state.PartitionSeq())
	}
	from := state.WALSeq()
	wrong, reason, err := r.adopt(ctx, state, r.log.Last)
	if err != nil {
		return err
	}
	if wrong > 0 {
		err := fmt.Errorf("%w: record %d of the message log does not follow the one before it (%w)", ErrCannotRepair, wrong, reason)
		if wrong <= r.wal.Last+1 { // the write-ahead log has all before it
			err = fmt.Errorf("%w; use 'sendhouse repair message-log --partition %d', which removes it and what is after it", err, r.partition)
		}
		return err
	}
	intact, err := r.walIsIntact(ctx)
	if err != nil {
		return err
	}
	if intact {
		return command.Say(out, "partition %d: the write-ahead log makes what the message log holds, up to record %d; nothing to repair\n", r.partition, r.log.Last)
	}
	continues, missing, err := r.walContinues(ctx, kept)
	if err != nil {
		return err
	}
	if continues {
		return r.joinLogs(ctx, out, yes, state, kept, missing)
	}
	dropped := ""
	if r.wal.Last > r.log.Last {
		dropped = fmt.Sprintf("Its records %d to %d do not follow the message log and are removed; they were not answered since a record is missing. ", r.log.Last+1, r.wal.Last)
	}
	err = command.Confirm(out, yes, "partition %d: the write-ahead log ends at record %d, the message log at %d.\nA checkpoint is made at record %d, from the state at %d and the message log. The write-ahead log is made again, empty, and continues at record %d.\n%s"+
		"Answers stay as they were given. Sends that were answered and are not in the message log are lost; no log has them. Sends that were not answered are to be sent again.\n",
		r.partition, r.wal.Last, r.log.Last, state.WALSeq(), from, state.WALSeq()+1, dropped)
	if err != nil {
		return err
	}
	if _, err := r.checkpoints.Save(ctx, state.Snapshot(), time.Now(), kept, nil); err != nil {
		return err
	}
	if err := r.restartWAL(ctx, state.WALSeq()+1); err != nil {
		return err
	}
	return command.Say(out, "Done. The partition's sequencer serves it at its next attempt, within 30 s.\n")
}

// joinLogs stores a checkpoint at the message log's end, when all that is lost is a checkpoint that joins the logs, or records of the
// write-ahead log, the first of them missing, that the message log has. What is before the checkpoint cannot be folded any more then, and is trimmed.
func (r *repairing) joinLogs(ctx context.Context, out io.Writer, yes bool, state *fold.State, kept runner.Kept, missing uint64) error {
	what := fmt.Sprintf("the write-ahead log begins at record %d, and there is no checkpoint from which to read it", r.wal.First)
	then := "Both logs stay as they are"
	if missing > 0 {
		what = fmt.Sprintf("record %d of the write-ahead log is missing, and the message log has what it became", missing)
		then = fmt.Sprintf("The write-ahead log is trimmed up to there and stays as it is after it, up to record %d", r.wal.Last)
	}
	err := command.Confirm(out, yes, "partition %d: %s.\nA checkpoint is made at record %d from the message log. %s, and answers stay as they were given.\n",
		r.partition, what, state.WALSeq(), then)
	if err != nil {
		return err
	}
	if _, err := r.checkpoints.Save(ctx, state.Snapshot(), time.Now(), kept, nil); err != nil {
		return err
	}
	if missing > 0 {
		if err := r.logs.TrimWAL(ctx, state.WALSeq()+1); err != nil {
			return err
		}
	}
	return command.Say(out, "Done. The partition's sequencer serves it at its next attempt, within 30 s.\n")
}

// newestState is that of the newest checkpoint that can be read, or the empty one if the message log has its beginning.
func (r *repairing) newestState(ctx context.Context, kept runner.Kept) (*fold.State, error) {
	var damage error
	for _, meta := range kept.Metas {
		state, err := r.checkpoints.Load(ctx, meta, r.params)
		if err == nil {
			return state, nil
		}
		if !errors.Is(err, runner.ErrDamaged) {
			return nil, err
		}
		damage = errors.Join(damage, err)
	}
	if r.log.First > 1 {
		return nil, fmt.Errorf("%w: no checkpoint can be read, and the message log begins at record %d: %w", ErrCannotRepair, r.log.First, damage)
	}
	return fold.New(r.params)
}

// walIsIntact reports whether the write-ahead log makes what the message log holds, and lacks nothing after that.
func (r *repairing) walIsIntact(ctx context.Context) (bool, error) {
	if r.wal.Last < r.log.Last {
		return false, nil
	}
	if missing, err := r.logs.WALMissing(ctx, r.log.Last+1); err != nil || missing > 0 {
		return false, err
	}
	starts, err := refold.FindStarts(ctx, r.js, r.deployment, r.partition, r.wal)
	if errors.Is(err, runner.ErrMissing) || errors.Is(err, runner.ErrDamaged) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f, err := r.examine(ctx, starts)
	if errors.Is(err, runner.ErrDamaged) || errors.Is(err, runner.ErrMissing) {
		return false, nil // the checkpoint to begin with, or a record
	}
	return f.differs == 0, err
}

// walContinues reports whether the write-ahead log has all records after the message log's last one and, read from the state that the
// message log makes of what is before it, makes what the message log holds. Missing is the first record that the write-ahead log lacks
// before that, 0 if none: up to there the logs are compared.
func (r *repairing) walContinues(ctx context.Context, kept runner.Kept) (continues bool, missing uint64, err error) {
	if r.wal.Last < r.log.Last || r.wal.First > r.log.Last+1 {
		return false, 0, nil
	}
	state, err := r.newestState(ctx, kept)
	if err != nil {
		return false, 0, err
	}
	if _, _, err := r.adopt(ctx, state, r.wal.First-1); err != nil {
		return false, 0, err
	}
	if missing, err = r.logs.WALMissing(ctx, r.wal.First); err != nil {
		return false, 0, err
	}
	unread, err := r.logs.WALMissing(ctx, r.log.Last+1)
	if err != nil || unread > 0 {
		return false, 0, err
	}
	last := r.log.Last
	if missing > 0 {
		last = missing - 1
	}
	differs, err := r.compare(ctx, state, last)
	return differs == 0, missing, err
}

// restartWAL makes the write-ahead log again, empty, with the given first sequence.
func (r *repairing) restartWAL(ctx context.Context, first uint64) error {
	config, err := r.walConfig(ctx)
	if err != nil {
		return fmt.Errorf("look at the write-ahead log: %w", err)
	}
	config.FirstSeq = first
	if err := r.js.DeleteStream(ctx, config.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("delete the write-ahead log: %w", err)
	}
	if _, err := broker.CreateStream(ctx, r.js, config); err != nil {
		return fmt.Errorf("make the write-ahead log again, to continue at record %d: %w (run the command again)", first, err)
	}
	return nil
}

// walConfig is the stream's configuration. If there is none, it is one that the sequencers bring to their settings when they
// start.
func (r *repairing) walConfig(ctx context.Context) (jetstream.StreamConfig, error) {
	stream, err := r.js.Stream(ctx, topology.WALStream(r.partition))
	if err == nil {
		return stream.CachedInfo().Config, nil
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return jetstream.StreamConfig{}, err //nolint:wrapcheck // the caller says what was being done
	}
	messages, err := r.js.Stream(ctx, topology.MessagesStream(r.partition))
	if err != nil {
		return jetstream.StreamConfig{}, err //nolint:wrapcheck // the caller says what was being done
	}
	options := topology.DefaultOptions()
	options.Replicas = messages.CachedInfo().Config.Replicas
	config := options.WALConfig(r.partition)
	config.Metadata = r.deployment.Metadata()
	return config, nil
}
