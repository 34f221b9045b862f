package lease

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Reasons for which a holder's context ends, as its cause.
var (
	// ErrExpired: the lease could not be renewed in time.
	ErrExpired = errors.New("the lease could not be renewed in time")
	// ErrLost: another instance holds the partition.
	ErrLost = errors.New("the lease is another's")
	// ErrReleased: the instance gives the partition to another, or leaves.
	ErrReleased = errors.New("the lease is released")
)

// Lease is the holding of one partition.
type Lease struct {
	Partition int
	// Epoch grows with each change of hands: the revision under which the key was
	// made.
	Epoch uint64

	revision uint64       // of the key now; only the balancer's goroutine writes it, and asked, while Hold runs
	deadline atomic.Int64 // after base
	base     time.Time    // with a monotonic reading
	asked    time.Time    // before the first renewal that is not known to have been made; zero if there is none
	timer    *time.Timer  // ends the context at the deadline
	end      context.CancelCauseFunc
	ended    bool // Hold has returned; guarded by the balancer
}

// Good says whether the lease surely stands at this moment. A context ends a
// little after its deadline, and a process that was paused may run on before the
// timer does; whoever is about to do what only the holder may asks here.
func (l *Lease) Good() bool { return time.Since(l.base) < time.Duration(l.deadline.Load()) }

// extend moves the deadline to d after the moment before the renewal was sent.
func (l *Lease) extend(before time.Time, d time.Duration) {
	l.deadline.Store(int64(before.Sub(l.base) + d))
	l.timer.Reset(time.Until(before.Add(d)))
}

// renew renews the key of a partition. A key that another has, or that is gone,
// ends the lease.
func (b *Balancer) renew(ctx context.Context, l *Lease) error {
	if l.asked.IsZero() {
		l.asked = time.Now()
	}
	before := time.Now()
	revision, err := b.kv.Update(ctx, b.partitionKey(l.Partition), b.partitionValue(l), l.revision)
	if isConflict(err) {
		// A renewal whose answer was late or lost may have moved the key, the first of them at the earliest.
		var ours bool
		if revision, ours, err = b.ownRevision(ctx, b.partitionKey(l.Partition), l.revision); err == nil && !ours {
			l.end(ErrLost)
			return nil
		}
		before = l.asked
	}
	if err != nil {
		return fmt.Errorf("renew the lease of partition %d: %w", l.Partition, err)
	}
	l.asked = time.Time{}
	b.mu.Lock()
	defer b.mu.Unlock()
	l.revision = revision
	if !l.ended {
		l.extend(before, b.holdFor())
	}
	return nil
}

// errOldRevision: the key has moved, but the server that was asked for it, which need not be its stream's leader, does not
// have that yet. Whose it is now is not known then.
var errOldRevision = errors.New("the server that answered is behind")

// ownRevision looks up a key whose revision is not what it was, and says whether
// it is this instance's all the same.
func (b *Balancer) ownRevision(ctx context.Context, key string, was uint64) (revision uint64, ours bool, err error) {
	entry, err := b.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if entry.Revision() <= was {
		return 0, false, errOldRevision
	}
	v, err := parseValue(entry)
	// What cannot be read is not ours: something else has written it. It ends this lease, and not the round of all.
	return entry.Revision(), err == nil && v.Instance == b.cfg.Instance, nil
}

// begin runs Hold under a lease whose key was just made.
func (b *Balancer) begin(ctx context.Context, partition int, revision uint64, before time.Time) {
	ctx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	l := &Lease{Partition: partition, Epoch: revision, revision: revision, base: before, end: end}
	l.timer = time.AfterFunc(time.Hour, func() { end(ErrExpired) })
	l.extend(before, b.holdFor())
	b.mu.Lock()
	b.held[partition] = l
	b.mu.Unlock()
	b.log.Info("took a partition", "partition", partition, "epoch", l.Epoch)
	b.wg.Go(func() {
		err := b.hold(ctx, l)
		reason := context.Cause(ctx)
		end(ErrReleased)
		b.giveBack(l, errors.Is(reason, ErrExpired) || errors.Is(reason, ErrLost))
		if reason != nil {
			b.log.Info("gave a partition up", "partition", partition, "epoch", l.Epoch, "reason", reason)
			return
		}
		if err == nil {
			err = errors.New("ended without being told to")
		}
		select {
		case b.failed <- fmt.Errorf("partition %d: %w", partition, err):
		default: // another failed first
		}
	})
}

// giveBackTries: no more than one renewal can be under way when a lease is given
// back; the rest is for answers that were lost.
const giveBackTries = 3

// giveBack deletes the key, where it is still ours.
func (b *Balancer) giveBack(l *Lease, gone bool) {
	b.mu.Lock()
	l.ended = true
	l.timer.Stop()
	revision := l.revision
	delete(b.held, l.Partition)
	b.mu.Unlock()
	if gone {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.TTL)
	defer cancel()
	err := b.kv.Delete(ctx, b.partitionKey(l.Partition), jetstream.LastRevision(revision))
	for try := 0; isConflict(err) && try < giveBackTries; try++ {
		// A renewal that was under way has moved the key.
		var entry jetstream.KeyValueEntry
		if entry, err = b.kv.Get(ctx, b.partitionKey(l.Partition)); err != nil {
			break
		}
		if v, _ := parseValue(entry); v.Instance != b.cfg.Instance || v.Since != l.Epoch {
			return // it is another's, or what it says is not ours to judge
		}
		err = b.kv.Delete(ctx, b.partitionKey(l.Partition), jetstream.LastRevision(entry.Revision()))
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		b.log.Debug("a lease was not released and will expire", "partition", l.Partition, "error", err)
	}
}

// isConflict says whether a key was changed by another, or has expired.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) ||
		(errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence)
}
