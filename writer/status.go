package writer

import (
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
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// PartitionStatus is the externally visible status of a partition. State and Problem are as old as the last renewal of
// the lease.
type PartitionStatus struct {
	Partition  int    `json:"partition"`
	Owner      string `json:"owner"` // empty if no instance owns it
	Epoch      uint64 `json:"epoch"`
	State      string `json:"state,omitempty"`
	Problem    string `json:"problem,omitempty"`
	StreamLast uint64 `json:"stream_last"` // last message in the message log
	Done       uint64 `json:"done"`        // last message in ClickHouse
	Lag        uint64 `json:"lag"`         // messages between the two
	// Pending is the range that is being inserted, nil if there is none.
	Pending *RangeStatus `json:"pending,omitempty"`
	// LostMessages is the total of messages that disappeared from the message log before they could be inserted; Lost
	// holds the latest ranges of them.
	LostMessages uint64        `json:"lost_messages"`
	Lost         []RangeStatus `json:"lost,omitempty"`
	// MissingRows is the total of rows that the table has lost and that could not be inserted again from the message log.
	MissingRows uint64 `json:"missing_rows"`
}

// RangeStatus is a range of partition_seqs, both ends included.
type RangeStatus = seqRange

const statusTimeout = 5 * time.Second

// Status returns the status of all partitions of a deployment.
func Status(ctx context.Context, js jetstream.JetStream, partitions int) ([]PartitionStatus, error) {
	kv, err := js.KeyValue(ctx, topology.WriterLeaseBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w (has a writer been started?)", topology.WriterLeaseBucket, err)
	}
	leases, err := lease.List(ctx, kv, leaseRole)
	if err != nil {
		return nil, err //nolint:wrapcheck // says that it is of the leases
	}
	records, err := openBucket(ctx, js)
	if err != nil {
		return nil, err
	}
	all := make([]PartitionStatus, partitions)
	for p := range all {
		all[p], err = partitionStatus(ctx, js, records, p, leases.Owners[p])
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return all, nil
}

func partitionStatus(ctx context.Context, js jetstream.JetStream, records bucket, number int, owner lease.Value) (PartitionStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	s := PartitionStatus{Partition: number, Owner: owner.Instance, Epoch: owner.Since}
	if len(owner.Status) > 0 {
		var said leaseStatusValue
		if err := json.Unmarshal(owner.Status, &said); err != nil {
			return s, fmt.Errorf("status in its lease: %w", err)
		}
		s.State, s.Problem = string(said.State), said.Problem
	}
	at, err := (&positions{kv: records, key: positionKey(number), timeout: statusTimeout}).load(ctx)
	if err != nil {
		return s, err
	}
	s.Done, s.LostMessages, s.Lost = at.Done, at.LostMessages, at.Lost
	if at.Pending != nil {
		s.Pending = &at.Pending.seqRange
	}
	counted, _, err := readTally(ctx, records, number)
	if err != nil {
		return s, err
	}
	s.MissingRows = counted.Missing
	log, err := messagelog.Open(ctx, js, number)
	if err != nil {
		return s, err
	}
	bounds, err := log.Bounds(ctx)
	foreign := errors.Is(err, message.ErrNotAMessageBatch)
	if err != nil && !foreign {
		return s, err
	}
	s.StreamLast = bounds.Last
	if bounds.Gone || foreign { // its end is unknown
		s.StreamLast = s.Done
	}
	if foreign && s.Problem == "" { // the other partitions are shown regardless
		s.Problem = err.Error()
	}
	s.Lag = s.StreamLast - min(s.Done, s.StreamLast)
	return s, nil
}

// WriteStatus prints a table of the partitions, followed by their problems.
func WriteStatus(w io.Writer, all []PartitionStatus) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "PARTITION\tOWNER\tEPOCH\tSTATE\tMESSAGES\tWRITTEN\tLAG\tINSERTING\tLOST\tMISSING") // Flush reports
	for _, s := range all {
		owner, epoch, said, pending := "nobody", "-", "-", "-"
		if s.Owner != "" {
			owner, epoch = s.Owner, strconv.FormatUint(s.Epoch, 10)
		}
		if s.State != "" {
			said = s.State
		}
		if s.Pending != nil {
			pending = s.Pending.String()
		}
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%d\n", s.Partition, owner, epoch, said, s.StreamLast, s.Done, s.Lag, pending, s.LostMessages, s.MissingRows)
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

// StatusCommand is `sendhouse writer status`.
type StatusCommand struct{ command.Status }

// Run prints the status of the partitions.
func (c *StatusCommand) Run(in *command.Invocation) error {
	return in.Ask(in.Ctx, c.ClientConfig, command.Operator, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		all, err := Status(ctx, js, deployment.Partitions)
		if err != nil {
			return err
		}
		return command.Print(in.Stdout, c.Status, all, WriteStatus)
	})
}

// Shown returns the status in the form of the front page.
func Shown(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) ([]frontpage.Partition, error) {
	all, err := Status(ctx, js, deployment.Partitions)
	if err != nil {
		return nil, err
	}
	shown := make([]frontpage.Partition, 0, len(all))
	for _, s := range all {
		shown = append(shown, frontpage.Partition{Number: s.Partition, Owner: s.Owner, Epoch: s.Epoch, Lag: s.Lag, State: s.State, Problem: s.Problem})
	}
	return shown, nil
}
