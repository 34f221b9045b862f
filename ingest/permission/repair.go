package permission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// RepairCommand is `sendhouse repair permissions`.
type RepairCommand struct{ command.Repair }

// keptRecord is a record of the bucket that can be read.
type keptRecord struct {
	subject string
	header  nats.Header
	data    []byte
}

// Run makes the bucket again with those of its records that can be read. What it says of the others must be put right by hand: a
// channel without a record admits every sender.
func (c *RepairCommand) Run(in *command.Invocation) error {
	return in.Ask(in.Ctx, c.OrLocal(), command.Operator, func(ctx context.Context, js jetstream.JetStream, d topology.Deployment) error {
		if err := c.repair(ctx, js, d, in); err != nil {
			return fmt.Errorf("repair the permissions: %w", err)
		}
		return nil
	})
}

func (c *RepairCommand) repair(ctx context.Context, js jetstream.JetStream, d topology.Deployment, in *command.Invocation) error {
	stream, err := js.Stream(ctx, bucketStream)
	gone := errors.Is(err, jetstream.ErrStreamNotFound)
	var kept []keptRecord
	var lost []string
	options := topology.DefaultOptions()
	switch {
	case gone:
		err = nil
	case err == nil:
		options.Replicas = stream.CachedInfo().Config.Replicas
		kept, lost, err = readable(ctx, js, stream)
	}
	if err != nil {
		return err
	}
	state := "is gone"
	if !gone {
		state = fmt.Sprintf("has %d records that can be read and %d that cannot", len(kept), len(lost))
		if len(lost) == 0 && len(kept) > 0 {
			return command.Say(in.Stdout, "The bucket %s; nothing to repair.\n", state) //nolint:wrapcheck // Run says what was being done
		}
	}
	if len(lost) == 0 {
		lost = []string{"all that the bucket held"}
	}
	err = command.Confirm(in.Stdout, c.Yes, "The bucket of permissions %s.\nIt is made again with those that can be read. Stop ingest before. Channels whose record is lost then admit every sender that no other rule refuses: set their lists again.\nLost: %s\n",
		state, strings.Join(lost, ", "))
	if err != nil {
		return err //nolint:wrapcheck // Run says what was being done
	}
	if !gone {
		if err := js.DeleteStream(ctx, bucketStream); err != nil {
			return fmt.Errorf("delete stream %s: %w", bucketStream, err)
		}
	}
	if err := broker.Recreate(ctx, js, d, options, bucketStream); err != nil {
		return err //nolint:wrapcheck // says which stream
	}
	for _, r := range kept {
		if _, err := js.PublishMsg(ctx, &nats.Msg{Subject: r.subject, Header: r.header, Data: r.data}); err != nil {
			return fmt.Errorf("write %s again: %w", r.subject, err)
		}
	}
	return command.Say(in.Stdout, "Done: %d records. Start ingest again.\n", len(kept)) //nolint:wrapcheck // Run says what was being done
}

// readable reads the newest record of each key, and names the keys of which it cannot be read. One that can be read and is
// damaged is kept: its channel admits no sender until its lists are set again.
func readable(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream) (kept []keptRecord, lost []string, err error) {
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return nil, nil, fmt.Errorf("list the keys of %s: %w", bucketStream, err)
	}
	for subject := range info.State.Subjects {
		key := strings.TrimPrefix(subject, "$KV."+topology.PermissionBucket+".")
		record, err := broker.LastRecord(ctx, js, bucketStream, subject)
		switch {
		case err == nil:
			kept = append(kept, keptRecord{subject: subject, header: record.Header, data: record.Data})
		case errors.Is(err, jetstream.ErrMsgNotFound):
			lost = append(lost, key)
		default:
			return nil, nil, fmt.Errorf("read %s: %w", key, err)
		}
	}
	slices.SortFunc(kept, func(a, b keptRecord) int { return strings.Compare(a.subject, b.subject) })
	slices.Sort(lost)
	return kept, lost, nil
}
