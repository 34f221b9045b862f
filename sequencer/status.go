package sequencer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/console"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// PartitionStatus is what can be seen of a partition from outside. The owner's
// part of it is as old as the last renewal of its lease.
type PartitionStatus struct {
	Partition     int           `json:"partition"`
	Owner         string        `json:"owner"` // empty where nobody owns it
	Epoch         uint64        `json:"epoch"`
	WALLast       uint64        `json:"wal_last"`       // last record written
	WALLag        uint64        `json:"wal_lag"`        // records not folded
	OutputLast    uint64        `json:"output_last"`    // last record of the message log
	OutputBehind  uint64        `json:"output_behind"`  // records folded that it lacks
	CheckpointAge time.Duration `json:"checkpoint_age"` // 0 where there is none
	CheckpointWAL uint64        `json:"checkpoint_wal_seq"`
}

// Status looks at all partitions of a deployment.
func Status(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) ([]PartitionStatus, error) {
	kv, err := js.KeyValue(ctx, topology.LeaseBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w (has a sequencer been started?)", topology.LeaseBucket, err)
	}
	leases, err := lease.List(ctx, kv, leaseRole)
	if err != nil {
		return nil, err
	}
	all := make([]PartitionStatus, deployment.Partitions)
	for p := range all {
		all[p], err = partitionStatus(ctx, js, p, leases.Owners[p])
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return all, nil
}

func partitionStatus(ctx context.Context, js jetstream.JetStream, number int, owner lease.Value) (PartitionStatus, error) {
	s := PartitionStatus{Partition: number, Owner: owner.Instance, Epoch: owner.Since}
	var progress runner.Progress
	if len(owner.Status) > 0 {
		if err := json.Unmarshal(owner.Status, &progress); err != nil {
			return s, fmt.Errorf("status in its lease: %w", err)
		}
	}
	logs := &natsLogs{nc: js.Conn(), js: js, partition: number}
	wal, err := logs.WALBounds(ctx)
	if err != nil {
		return s, err
	}
	end, err := logs.OutputTail(ctx, 0)
	if err != nil {
		return s, err
	}
	checkpoints, err := openCheckpoints(ctx, js, number)
	if err != nil {
		return s, err
	}
	kept, err := checkpoints.List(ctx)
	if err != nil {
		return s, err
	}
	s.WALLast, s.OutputLast = wal.Last, end.Seq
	s.WALLag = wal.Last - min(progress.WALSeq, wal.Last)
	s.OutputBehind = progress.WALSeq - min(end.Seq, progress.WALSeq)
	if len(kept.Metas) > 0 {
		s.CheckpointAge, s.CheckpointWAL = time.Since(kept.Metas[0].TakenAt), kept.Metas[0].WALSeq
	}
	return s, nil
}

// WriteStatus prints a table of it.
func WriteStatus(w io.Writer, all []PartitionStatus) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "PARTITION\tOWNER\tEPOCH\tWAL LAST\tWAL LAG\tOUTPUT LAST\tOUTPUT LAG\tCHECKPOINT AGE\tCHECKPOINT AT") // Flush reports
	for _, s := range all {
		owner, epoch, age, at := "nobody", "-", "-", "-"
		if s.Owner != "" {
			owner, epoch = s.Owner, strconv.FormatUint(s.Epoch, 10)
		}
		if s.CheckpointAge > 0 {
			age, at = s.CheckpointAge.Round(time.Second).String(), strconv.FormatUint(s.CheckpointWAL, 10)
		}
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", s.Partition, owner, epoch, s.WALLast, s.WALLag, s.OutputLast, s.OutputBehind, age, at)
	}
	return table.Flush()
}

// StatusCommand is `sendhouse sequencer status`.
type StatusCommand struct{ command.Status }

// Run prints how the partitions are.
func (c *StatusCommand) Run(in *command.Invocation) error {
	return in.Ask(in.Ctx, c.ClientConfig, command.Operator, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		all, err := Status(ctx, js, deployment)
		if err != nil {
			return err
		}
		return command.Print(in.Stdout, c.Status, all, WriteStatus)
	})
}

// Shown is the status as the front page shows it.
func Shown(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) ([]console.Partition, error) {
	all, err := Status(ctx, js, deployment)
	if err != nil {
		return nil, err
	}
	shown := make([]console.Partition, 0, len(all))
	for _, s := range all {
		one := console.Partition{Number: s.Partition, Owner: s.Owner, Epoch: s.Epoch, Lag: s.WALLag, State: "no checkpoint"}
		if s.CheckpointAge > 0 {
			one.State = fmt.Sprintf("checkpoint %s ago", s.CheckpointAge.Round(time.Second))
		}
		shown = append(shown, one)
	}
	return shown, nil
}
