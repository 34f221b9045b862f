package permission

import (
	"cmp"
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

// keptRecord is a readable record of the bucket.
type keptRecord struct {
	subject  string
	revision uint64
	deleted  string // the operation header of a key that was deleted by hand; otherwise empty
	data     []byte
}

// Run rebuilds the bucket from its readable records, or accepts a readable bucket that has less than its mark. What is
// lost must be restored by hand: a channel without a record admits every sender.
func (c *RepairCommand) Run(in *command.Invocation) error {
	return c.Ask(in, func(ctx context.Context, js jetstream.JetStream, d topology.Deployment) error {
		if err := c.repair(ctx, js, d, in); err != nil {
			return fmt.Errorf("repair the permissions: %w", err)
		}
		return nil
	})
}

func (c *RepairCommand) repair(ctx context.Context, js jetstream.JetStream, d topology.Deployment, in *command.Invocation) error {
	stored, err := readMark(ctx, js)
	if err != nil {
		return err
	}
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
			return c.accept(ctx, js, mark{Created: stream.CachedInfo().Created, extent: extentOf(kept)}, stored, in)
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
	for i, r := range kept {
		msg := nats.NewMsg(r.subject) // without its other headers: the revision that it replaced is among them
		if msg.Data = r.data; r.deleted != "" {
			msg.Header.Set(operationHeader, r.deleted)
		}
		ack, err := js.PublishMsg(ctx, msg)
		if err != nil {
			return fmt.Errorf("write %s again: %w", r.subject, err)
		}
		kept[i].revision = ack.Sequence
	}
	if stream, err = js.Stream(ctx, bucketStream); err != nil {
		return fmt.Errorf("look at stream %s: %w", bucketStream, err)
	}
	if err := writeMark(ctx, js, mark{Created: stream.CachedInfo().Created, extent: extentOf(kept)}, stored.revision); err != nil {
		return err
	}
	return command.Say(in.Stdout, "Done: %d records. Start ingest again.\n", len(kept)) //nolint:wrapcheck // Run says what was being done
}

// accept accepts the bucket as it is, though it holds less than its mark.
func (c *RepairCommand) accept(ctx context.Context, js jetstream.JetStream, there mark, stored storedMark, in *command.Invocation) error {
	shortfall := stored.shortfall(there.Created, there.extent)
	if shortfall == nil {
		return command.Say(in.Stdout, "The bucket can be read, and has the permissions of %d channels, no fewer than it had; nothing to repair.\n", there.Channels) //nolint:wrapcheck // Run says what was being done
	}
	err := command.Confirm(in.Stdout, c.Yes, "The bucket of permissions can be read, and has lost records: %s.\nIt is taken as it is. Changes that are lost are no longer in force, and channels whose record is lost admit every sender that no other rule refuses: set their lists again. If there is a newer backup, restore it with `nats stream restore` instead.\n",
		shortfall)
	if err != nil {
		return err //nolint:wrapcheck // Run says what was being done
	}
	if err := writeMark(ctx, js, there, stored.revision); err != nil {
		return err
	}
	return command.Say(in.Stdout, "Done: %d channels have permissions.\n", there.Channels) //nolint:wrapcheck // Run says what was being done
}

// extentOf returns the extent of a bucket with these records.
func extentOf(records []keptRecord) (held extent) {
	for _, r := range records {
		key, err := parseKey(strings.TrimPrefix(r.subject, bucketSubjects))
		if err != nil || key.isPage {
			continue
		}
		held.Last = max(held.Last, r.revision)
		if r.deleted == "" { // a deleted record closes the channel
			// Pages are not needed: a list that has pages is not empty.
			if p, _ := readPolicy(r.data, r.revision, func(uint64) *page { return nil }); p.isEmpty() {
				continue
			}
		}
		held.Channels++
	}
	return held
}

// readable reads the newest record of each key, and returns the keys whose record cannot be read. A record that can be
// read and is damaged is kept: its channel admits no sender until its lists are set again.
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
			kept = append(kept, keptRecord{subject: subject, revision: record.Sequence, deleted: record.Header.Get(operationHeader), data: record.Data})
		case errors.Is(err, jetstream.ErrMsgNotFound):
			lost = append(lost, key)
		default:
			return nil, nil, fmt.Errorf("read %s: %w", key, err)
		}
	}
	// In the order of writing: pages come before the record that points to them.
	slices.SortFunc(kept, func(a, b keptRecord) int { return cmp.Compare(a.revision, b.revision) })
	slices.Sort(lost)
	return kept, lost, nil
}
