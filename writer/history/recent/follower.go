package recent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const (
	// idleAfter is the time after the last read of a partition until it is no longer followed.
	idleAfter = 30 * time.Second
	// The pauses between sessions that fail. A read must not wait for long when NATS is back.
	pauseMin = 50 * time.Millisecond
	pauseMax = 500 * time.Millisecond
	// brokenMax is how long sessions may fail before a read fails at once and no longer waits for the next one.
	brokenMax = 2 * time.Second
)

// follower reads the message log of one partition into its tail, in sessions, while there are readers.
type follower struct {
	partition int
	js        jetstream.JetStream
	log       *slog.Logger
	metrics   *metrics
	owner     *Log
	walEnd    question
	faults    lifecycle.Repeated

	mu      sync.Mutex
	running bool // a goroutine has sessions
	closed  bool
	session int  // its number: records of an earlier one are ignored
	open    bool // the session has opened, and the tail is valid
	tail    tail
	broken  error         // why the last session ended; nil if none has since the last one that opened
	since   time.Time     // when sessions began to fail
	lastly  time.Time     // the last read
	waiting int           // reads that wait for records
	stalled bool          // no record has come since a read waited in vain
	changed chan struct{} // closed at the next change; nil if no read waits
}

// take waits until the tail has reached the end of the write-ahead log, and takes what is wanted of it.
func (f *follower) take(ctx context.Context, want func(*tail) Part) (Part, error) {
	if err := f.begin(); err != nil {
		return Part{}, err
	}
	defer f.leave()
	start := time.Now()
	target, err := f.target(ctx)
	if err != nil {
		return Part{}, err
	}
	for {
		f.mu.Lock()
		reached := f.open && f.tail.end >= target
		if reached || f.open && f.stalled {
			p := want(&f.tail)
			f.mu.Unlock()
			p.Reached = reached
			f.metrics.waitSeconds.Observe(time.Since(start).Seconds())
			return p, nil
		}
		err := f.brokenLocked()
		if err != nil {
			f.mu.Unlock()
			return Part{}, err
		}
		changed := f.changedLocked()
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			if err := f.inVain(context.Cause(ctx)); err != nil {
				return Part{}, err
			}
		}
	}
}

// target is the record that the tail must reach. While a leader is being elected, it waits.
func (f *follower) target(ctx context.Context) (uint64, error) {
	for {
		target, err := f.walEnd.answer(ctx)
		if !errors.Is(err, errNoLeader) || lifecycle.Pause(ctx, pauseMin) != nil {
			return target, err
		}
	}
}

// brokenLocked returns why a read need not wait for a tail.
func (f *follower) brokenLocked() error {
	switch {
	case f.closed:
		return ErrClosed
	case f.broken != nil && time.Since(f.since) > brokenMax:
		return f.broken
	default:
		return nil
	}
}

// begin registers a read, and makes sure that the partition is followed.
func (f *follower) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.waiting++
	f.lastly = time.Now()
	if !f.running {
		f.running = true
		f.owner.running.Add(1)
		go f.follow(f.owner.ctx)
	}
	return nil
}

func (f *follower) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
	f.lastly = time.Now()
}

// inVain notes that a read has waited as long as it could, and returns an error if there is no tail. A client that has left
// has not waited.
func (f *follower) inVain(cause error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !errors.Is(cause, context.DeadlineExceeded):
		return cause
	case f.open:
		f.stalled = true
		return nil
	case f.broken != nil:
		return f.broken
	default:
		return fmt.Errorf("open the message log: %w", cause)
	}
}

func (f *follower) changedLocked() <-chan struct{} {
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

func (f *follower) notifyLocked() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// errIdle ends a session that nothing reads.
var errIdle = errors.New("idle")

// follow has sessions until nothing reads the partition or ctx ends.
func (f *follower) follow(ctx context.Context) {
	defer f.owner.running.Done()
	backoff := lifecycle.Backoff{Min: pauseMin, Max: pauseMax}
	for failures := 0; ; failures++ {
		opened, err := f.run(ctx)
		if opened {
			failures = 0
		}
		if f.over(ctx, errors.Is(err, errIdle)) {
			return
		}
		if errors.Is(err, errIdle) {
			continue // a read came meanwhile
		}
		f.metrics.failures.Inc()
		if skipped, due := f.faults.Due(err.Error()); due {
			f.log.Warn("cannot follow the message log for reads; retrying", "error", err, "skipped", skipped)
		}
		_ = backoff.Wait(ctx, failures+1) // over looks at ctx
	}
}

// over reports whether there is to be no other session.
func (f *follower) over(ctx context.Context, idle bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = ctx.Err() == nil && (f.waiting > 0 || !idle)
	return !f.running
}

// run is one session.
func (f *follower) run(ctx context.Context) (opened bool, err error) {
	failed := make(chan error, 1)
	s := &session{follower: f, failed: failed}
	stop, err := s.start(ctx)
	if err != nil {
		s.drop(err)
		return false, err
	}
	defer stop() // NATS may be away, so only when no read uses the tail any more
	if f.faults.Over() {
		f.log.Info("following the message log for reads again")
	}
	err = s.watch(ctx, failed)
	s.drop(err)
	return true, err
}

// drop ends a session for the reads, with its tail.
func (f *follower) drop(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session++
	f.open, f.stalled = false, false
	if errors.Is(err, errIdle) {
		err = nil
	} else if f.broken == nil {
		f.since = time.Now()
	}
	f.broken = err
	f.tail.reset(0, 0, 0)
	f.notifyLocked()
}
