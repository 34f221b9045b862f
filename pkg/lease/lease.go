package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	// taken.
	Epoch uint64

	clock    func() time.Duration
	renewNow func()       // asks the balancer for a round
	deadline atomic.Int64 // by clock
	timer    *time.Timer  // ends the context at the deadline
	end      context.CancelCauseFunc

	revision uint64        // of the key now; only the balancer's goroutine writes it while Hold runs
	unknown  time.Duration // before the first renewal whose outcome is not known was sent; 0 if there is none
	ended    bool          // Hold has returned; guarded by the balancer

	mu      sync.Mutex
	renewed chan struct{} // closed and replaced when the deadline moves
}

// Good reports whether the lease surely stands at this moment. A context ends a
// little after its deadline, and a process that was paused may run on before the
// timer does; whoever is about to do what only the holder may asks here.
func (l *Lease) Good() bool { return int64(l.clock()) < l.deadline.Load() }

// Await reports whether the lease stands, like Good. After a pause that has outlasted
// the deadline it waits until the lease is renewed or ctx, the context of Hold, ends.
func (l *Lease) Await(ctx context.Context) bool {
	for !l.Good() {
		l.mu.Lock()
		renewed := l.renewed
		l.mu.Unlock()
		if l.Good() { // between the two looks
			return true
		}
		l.renewNow()
		select {
		case <-renewed:
		case <-ctx.Done():
			return l.Good()
		}
	}
	return true
}

// Announce asks for a renewal now, since what the holder says of the partition has changed. It does not wait for it.
func (l *Lease) Announce() { l.renewNow() }

// extend moves the deadline.
func (l *Lease) extend(deadline time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline.Store(int64(deadline))
	l.timer.Reset(deadline - l.clock())
	close(l.renewed)
	l.renewed = make(chan struct{})
}

// renew renews the key of a partition. A key that another has, or that is gone,
// ends the lease.
func (b *Balancer) renew(ctx context.Context, l *Lease) error {
	before := b.clock()
	if l.unknown == 0 {
		l.unknown = before
	}
	revision, err := b.kv.Update(ctx, b.partitionKey(l.Partition), b.partitionValue(l), l.revision)
	if isConflict(err) {
		// A renewal whose answer was late or lost may have moved the key, the first of them at the earliest.
		var ours bool
		if revision, ours, err = b.ownRevision(ctx, b.partitionKey(l.Partition), l.revision); err == nil && !ours {
			l.end(ErrLost)
			return nil
		}
		before = l.unknown
	}
	if err != nil {
		return fmt.Errorf("renew the lease of partition %d: %w", l.Partition, err)
	}
	l.unknown = 0
	b.mu.Lock()
	defer b.mu.Unlock()
	l.revision = revision
	if !l.ended {
		l.extend(before + b.holdFor())
	}
	return nil
}

// errOldRevision: the key has moved, but the server that was asked for it, which need not be its stream's leader, does not
// have that yet. Whose it is now is not known then.
var errOldRevision = errors.New("the server that answered is behind")

// ownRevision looks up a key whose revision is not what it was, and reports whether
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

// begin runs Hold under a lease whose key was just taken.
func (b *Balancer) begin(ctx context.Context, partition int, revision uint64, before time.Duration) {
	ctx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	l := &Lease{
		Partition: partition, Epoch: revision, revision: revision, clock: b.clock, renewNow: b.changes.Signal, end: end,
		timer: time.AfterFunc(time.Hour, func() { end(ErrExpired) }), renewed: make(chan struct{}),
	}
	l.extend(before + b.holdFor())
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

// giveBack deletes the key if it is still ours. Of a lease that has expired the next
// round finds out whose it is: this instance takes it again or gives it back then.
func (b *Balancer) giveBack(l *Lease, gone bool) {
	b.mu.Lock()
	l.ended = true
	l.timer.Stop()
	revision := l.revision
	delete(b.held, l.Partition)
	b.mu.Unlock()
	if gone {
		b.changes.Signal()
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
		b.log.Debug("could not release a lease; another instance takes it after the time to live", "partition", l.Partition, "error", err)
	}
}

// isConflict reports whether a key is not at the revision that it was expected at.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || (errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant))
}
