package sequencer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/frontpage"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/checkpoint"
	"github.com/sendhouse/sendhouse/sequencer/natslog"
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
	// State is that of its owner, empty if there is none.
	State string `json:"state,omitempty"`
	// Problem is why the partition is not served, or what of it cannot be read.
	Problem string `json:"problem,omitempty"`
}

// The states of a partition that has an owner.
const (
	stateServed     = "served"
	stateRecovering = "recovering" // after an error that may pass
	stateRefused    = "refused"    // until it is mended
)

// stateOf is the state that a holder's condition means.
func stateOf(c lease.Condition) string {
	switch {
	case c.Refused:
		return stateRefused
	case c.Problem != "":
		return stateRecovering
	default:
		return stateServed
	}
}

// Status looks at all partitions of a deployment.
func Status(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) ([]PartitionStatus, error) {
	kv, err := js.KeyValue(ctx, topology.LeaseBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w (has a sequencer been started?)", topology.LeaseBucket, err)
	}
	leases, err := lease.List(ctx, kv, lease.RoleSequencer)
	if err != nil {
		return nil, err
	}
	all := make([]PartitionStatus, deployment.Partitions)
	for p := range all {
		all[p], err = partitionStatus(ctx, js, p, leases.Owners[p])
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound): // the other partitions are shown all the same
			all[p].Problem = cmp.Or(all[p].Problem, err.Error())
		case err != nil:
			return nil, fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return all, nil
}

func partitionStatus(ctx context.Context, js jetstream.JetStream, number int, owner lease.Value) (PartitionStatus, error) {
	s := PartitionStatus{Partition: number, Owner: owner.Instance, Epoch: owner.Since}
	var said ownerStatus
	if len(owner.Status) > 0 {
		if err := json.Unmarshal(owner.Status, &said); err != nil {
			return s, fmt.Errorf("status in its lease: %w", err)
		}
	}
	if owner.Instance != "" {
		s.State, s.Problem = stateOf(said.Condition), said.Problem
	}
	logs := natslog.New(js, number)
	wal, err := logs.WALBounds(ctx)
	if err != nil {
		return s, err
	}
	end, err := logs.OutputTail(ctx, 0)
	if err != nil {
		return s, err
	}
	checkpoints, err := checkpoint.Open(ctx, js, number)
	if err != nil {
		return s, err
	}
	kept, err := checkpoints.Pointed(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrPointer):
		s.Problem = cmp.Or(s.Problem, err.Error())
	case err != nil:
		return s, err
	}
	s.WALLast, s.OutputLast = wal.Last, end.Seq
	s.WALLag = wal.Last - min(said.WALSeq, wal.Last)
	s.OutputBehind = said.WALSeq - min(end.Seq, said.WALSeq)
	if len(kept) > 0 {
		s.CheckpointAge, s.CheckpointWAL = time.Since(kept[0].TakenAt), kept[0].WALSeq
	}
	return s, nil
}

// WriteStatus prints a table of it, and below it the problems.
func WriteStatus(w io.Writer, all []PartitionStatus) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "PARTITION\tOWNER\tEPOCH\tSTATE\tWAL LAST\tWAL LAG\tOUTPUT LAST\tOUTPUT LAG\tCHECKPOINT AGE\tCHECKPOINT AT") // Flush reports
	for _, s := range all {
		owner, epoch, state, age, at := "nobody", "-", "-", "-", "-"
		if s.Owner != "" {
			owner, epoch, state = s.Owner, strconv.FormatUint(s.Epoch, 10), s.State
		}
		if s.CheckpointAge > 0 {
			age, at = s.CheckpointAge.Round(time.Second).String(), strconv.FormatUint(s.CheckpointWAL, 10)
		}
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", s.Partition, owner, epoch, state, s.WALLast, s.WALLag, s.OutputLast, s.OutputBehind, age, at)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	for _, s := range all {
		if s.Problem == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "partition %d: %s\n", s.Partition, s.Problem); err != nil {
			return fmt.Errorf("print a problem: %w", err)
		}
	}
	return nil
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
func Shown(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) ([]frontpage.Partition, error) {
	all, err := Status(ctx, js, deployment)
	if err != nil {
		return nil, err
	}
	shown := make([]frontpage.Partition, 0, len(all))
	for _, s := range all {
		one := frontpage.Partition{Number: s.Partition, Owner: s.Owner, Epoch: s.Epoch, Lag: s.WALLag, State: "no checkpoint", Problem: s.Problem}
		switch {
		case s.State == stateRefused || s.State == stateRecovering:
			one.State = s.State
		case s.CheckpointAge > 0:
			one.State = fmt.Sprintf("checkpoint %s ago", s.CheckpointAge.Round(time.Second))
		}
		shown = append(shown, one)
	}
	return shown, nil
}
