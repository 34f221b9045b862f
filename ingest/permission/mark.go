package permission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// The mark is stored in the bucket of the deployment's record, not in the bucket that it describes, so that the two are
// not lost together.
const (
	markStream  = "KV_" + topology.DeploymentBucket
	markKey     = "permissions"
	markSubject = "$KV." + topology.DeploymentBucket + "." + markKey

	operationHeader = "KV-Operation" // present on a deleted key (ADR-8 of NATS)
)

// extent is how much the bucket holds. Only channel records count: pages are added and removed, while a record is replaced
// but never removed. So Last only grows, and Channels is a function of the bucket's content up to Last.
type extent struct {
	Last     uint64 `json:"last"`     // revision of the newest record of a channel
	Channels int64  `json:"channels"` // channels with a policy that is not empty
}

// mark is a lower bound of what the bucket held when it was last changed. It reveals a bucket that was replaced by an
// older copy, truncated, or purged of a record, none of which leaves a trace in the bucket itself.
//
// A change writes the record first and the mark after it, and is answered when both are stored. So a process that dies in
// between leaves a bucket that is ahead of its mark, never one that lags. Every instance raises a mark that lags, by
// compare-and-swap and never to less, so any number of instances may do so. A missing mark, of a bucket written by a
// version without marks, is created from the bucket's content.
type mark struct {
	Created time.Time `json:"created"` // when the bucket's stream was created; the sequences of another stream start at 1 again
	extent
}

// storedMark is the mark as stored; the zero value if there is none.
type storedMark struct {
	mark
	revision uint64 // of the key, for the next compare-and-swap; 0: never written
	damaged  error
}

// readMark reads the mark from the leader.
func readMark(ctx context.Context, js jetstream.JetStream) (storedMark, error) {
	record, err := broker.LastRecord(ctx, js, markStream, markSubject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return storedMark{}, nil
	case err != nil:
		return storedMark{}, fmt.Errorf("read the mark of the permissions, %s in bucket %s: %w", markKey, topology.DeploymentBucket, err)
	}
	stored := storedMark{revision: record.Sequence}
	if record.Header.Get(operationHeader) != "" { // deleted by hand
		return stored, nil
	}
	if err := broker.UnmarshalChecked(record.Data, &stored.mark); err != nil {
		stored.mark, stored.damaged = mark{}, err
	}
	return stored, nil
}

// writeMark replaces the mark of a revision. It returns errConflict if another process was faster.
func writeMark(ctx context.Context, js jetstream.JetStream, m mark, revision uint64) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the mark of the permissions: %w", err)
	}
	_, err = storeAfter(ctx, js, &nats.Msg{Subject: markSubject, Data: broker.WithChecksum(data)}, revision)
	if err != nil {
		return fmt.Errorf("write the mark of the permissions, %s in bucket %s: %w", markKey, topology.DeploymentBucket, err)
	}
	return nil
}

// isNone reports whether the mark is absent.
func (m mark) isNone() bool { return m.Created.IsZero() }

// covers reports whether the mark records at least this extent.
func (m mark) covers(created time.Time, held extent) bool {
	return m.Created.Equal(created) && m.Last >= held.Last
}

// shortfall describes what the bucket lacks compared with the mark; nil if nothing.
func (m mark) shortfall(created time.Time, held extent) error {
	switch {
	case m.isNone():
		return nil
	case !m.Created.Equal(created) && held != m.extent: // a cluster sets a new creation time for a restored stream
		return fmt.Errorf("it was created again at %s and replaces one created at %s with %d channels",
			created.UTC().Format(time.RFC3339), m.Created.UTC().Format(time.RFC3339), m.Channels)
	case held.Last < m.Last:
		return fmt.Errorf("its newest channel record is revision %d, but revision %d was written; it has %d channels, and had %d", held.Last, m.Last, held.Channels, m.Channels)
	case held.Last == m.Last && held.Channels < m.Channels:
		return fmt.Errorf("%d of %d channels are missing", m.Channels-held.Channels, m.Channels)
	}
	return nil
}

// renew rewrites a mark whose stream was restored from a backup, with the new stream's time of creation.
func (s *Store) renew(ctx context.Context, stored storedMark, created time.Time) error {
	if stored.isNone() || stored.Created.Equal(created) {
		return nil
	}
	stored.Created = created
	return writeMark(ctx, s.js, stored.mark, stored.revision)
}

// reportMark logs that a mark is damaged. It is then written again from the bucket's content.
func (s *Store) reportMark(stored storedMark) {
	if stored.damaged != nil {
		s.log.Error("the mark that reveals a loss of permissions is damaged; writing it again from the bucket's content",
			"bucket", topology.DeploymentBucket, "key", markKey, "of", topology.PermissionBucket, "error", stored.damaged)
	}
}

// raise raises the stored mark to at least what the cache holds. Usually another call, or another instance, has already
// done so.
func (s *Store) raise(ctx context.Context) error {
	if s.isMarked() {
		return nil
	}
	select {
	case s.marking <- struct{}{}:
		defer func() { <-s.marking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for range attemptsMax {
		if s.isMarked() {
			return nil
		}
		stored, err := readMark(ctx, s.js)
		if err != nil {
			return err
		}
		s.reportMark(stored)
		created, held := time.Unix(0, s.created.Load()).UTC(), s.cache.Load().extent()
		switch {
		case !stored.isNone() && !stored.Created.Equal(created):
			return fmt.Errorf("the bucket %s was created again in the meantime", topology.PermissionBucket)
		case stored.covers(created, held):
			s.marked.Store(&stored.mark)
			return nil
		}
		raised := mark{Created: created, extent: held}
		err = writeMark(ctx, s.js, raised, stored.revision)
		if err == nil {
			s.marked.Store(&raised)
			return nil
		}
		if !errors.Is(err, errConflict) {
			return err
		}
	}
	return fmt.Errorf("%d attempts conflicted with changes of the mark of the permissions by other instances", attemptsMax)
}

// isMarked reports whether the stored mark is known to cover the cache.
func (s *Store) isMarked() bool {
	held, known := s.cache.Load().extent(), s.marked.Load()
	return held.Last == 0 || known != nil && known.covers(time.Unix(0, s.created.Load()), held)
}
