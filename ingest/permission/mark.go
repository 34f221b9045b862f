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

// The mark is kept beside the deployment's record, in another stream than what it speaks of: it must not be lost with it.
const (
	markStream  = "KV_" + topology.DeploymentBucket
	markKey     = "permissions"
	markSubject = "$KV." + topology.DeploymentBucket + "." + markKey

	operationHeader = "KV-Operation" // of a key that was deleted (ADR-8 of NATS)
)

// extent is how much the bucket holds. Only the records of channels count: pages come and go, and a record is replaced but
// never removed. So Last only grows, and Channels is a function of the bucket's content up to Last.
type extent struct {
	Last     uint64 `json:"last"`     // revision of the newest record of a channel
	Channels int64  `json:"channels"` // channels with a policy that says something
}

// mark is what the bucket held at least when it was last changed. It shows a bucket that was replaced by an older copy, cut
// off, or purged of a record, none of which leaves a trace in the bucket itself.
//
// A change writes the record first and the mark after it, and is answered when both are stored. So a process that dies in between
// leaves a bucket that is ahead of its mark, never one that is behind. Every instance raises a mark that it finds behind the
// bucket, by compare-and-set and never to less, so it does not matter how many do. A mark that is not there, because a version
// without marks has written the bucket, is made from what is there.
type mark struct {
	Created time.Time `json:"created"` // of the bucket's stream: another one counts from 1 again
	extent
}

// storedMark is the mark as it is stored; the zero value if there is none.
type storedMark struct {
	mark
	revision uint64 // of the key, for the next compare-and-set; 0: it was never written
	damaged  error
}

// readMark asks the leader for the mark.
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

// writeMark replaces the mark of a revision. It is errConflict if another process was first.
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

// isNone reports whether there is no mark that says anything.
func (m mark) isNone() bool { return m.Created.IsZero() }

// covers reports whether the mark says at least that the bucket holds this.
func (m mark) covers(created time.Time, held extent) bool {
	return m.Created.Equal(created) && m.Last >= held.Last
}

// shortfall says what the bucket lacks of what the mark says; nil if nothing.
func (m mark) shortfall(created time.Time, held extent) error {
	switch {
	case m.isNone():
		return nil
	case !m.Created.Equal(created) && held != m.extent: // a cluster gives a stream that is restored a new time
		return fmt.Errorf("it was made again, at %s, in place of one of %s that had %d channels",
			created.UTC().Format(time.RFC3339), m.Created.UTC().Format(time.RFC3339), m.Channels)
	case held.Last < m.Last:
		return fmt.Errorf("its newest channel record is revision %d, and revision %d was written; it has %d channels, and had %d", held.Last, m.Last, held.Channels, m.Channels)
	case held.Last == m.Last && held.Channels < m.Channels:
		return fmt.Errorf("%d of %d channels are missing", m.Channels-held.Channels, m.Channels)
	}
	return nil
}

// renew writes a mark again that is of the stream from which this one was restored.
func (s *Store) renew(ctx context.Context, stored storedMark, created time.Time) error {
	if stored.isNone() || stored.Created.Equal(created) {
		return nil
	}
	stored.Created = created
	return writeMark(ctx, s.js, stored.mark, stored.revision)
}

// reportMark logs a mark that is damaged. It is written again from what the bucket holds.
func (s *Store) reportMark(stored storedMark) {
	if stored.damaged != nil {
		s.log.Error("the mark by which a loss of permissions is noticed is damaged; writing it again from what the bucket holds",
			"bucket", topology.DeploymentBucket, "key", markKey, "of", topology.PermissionBucket, "error", stored.damaged)
	}
}

// raise makes the stored mark say at least what the cache holds. Usually another call, or another instance, has done that.
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
			return fmt.Errorf("the bucket %s was made again meanwhile", topology.PermissionBucket)
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
	return fmt.Errorf("other instances changed the mark of the permissions %d times meanwhile", attemptsMax)
}

// isMarked reports whether the mark is known to say what the cache holds.
func (s *Store) isMarked() bool {
	held, known := s.cache.Load().extent(), s.marked.Load()
	return held.Last == 0 || known != nil && known.covers(time.Unix(0, s.created.Load()), held)
}
