package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// Reasons for which a queue does not do what it is asked.
var (
	// ErrLocked says that another process, or another Queue of this one, has the folder.
	ErrLocked = errors.New("the queue is in use by another process")
	// ErrClosed says that Close has been called.
	ErrClosed = errors.New("the queue is closed")
	// ErrRunTwice is returned by a second Run.
	ErrRunTwice = errors.New("queue: it runs already, or did")
)

// FullError says that a send has no room. Nothing was enqueued.
type FullError struct {
	// BytesMax is the queue's bound, Bytes what is in it, dead letters included, and More what the send would add.
	BytesMax, Bytes, More int64
}

// Error names the bound.
func (e *FullError) Error() string {
	return fmt.Sprintf("queue: full: %d bytes, with %d more than the %d it may hold (dead letters count: see DropDead)", e.Bytes, e.More, e.BytesMax)
}

// Stats is how full a queue is.
type Stats struct {
	Entries     int   // sends that wait
	Channels    int   // channels that they are for
	DeadLetters int   // sends given up
	Bytes       int64 // of both
}

// Queue keeps sends on disk and delivers them. Its methods may be called from many goroutines.
type Queue struct {
	cfg   Config
	store *store
	lanes *lanes

	bytes       atomic.Int64
	entries     atomic.Int64
	deadLetters atomic.Int64
	diskFails   atomic.Bool // the last change of a delivery was not taken

	mu     sync.RWMutex // held for reading by everything that uses the store
	closed bool
	ran    atomic.Bool
	ended  chan struct{} // closed when Run has returned, if it was called

	closing    context.Context //nolint:containedctx // ends when Close is called, and with it Run
	beginClose context.CancelFunc
}

// Open opens the queue in cfg.Dir, or makes it, and keeps other processes out until Close or the end of this one. It reads what is there;
// nothing is sent before Run.
func Open(cfg Config) (*Queue, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	opened, err := openStore(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{cfg: cfg, store: opened, lanes: newLanes(cfg.BackoffMin, cfg.BackoffMax), ended: make(chan struct{})}
	q.closing, q.beginClose = context.WithCancel(context.Background())
	deadLetters, deadBytes, err := q.store.scan(time.Now(), func(f found) {
		one := q.lanes.add(f.key, f.entries, f.uncertainSince)
		one.seq, one.uncertainSince = f.seq, f.uncertainSince
		q.entries.Add(int64(f.entries))
		q.bytes.Add(f.bytes)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("queue: read what is there: %w", err), opened.close())
	}
	q.deadLetters.Store(int64(deadLetters))
	q.bytes.Add(deadBytes)
	return q, nil
}

// Enqueue returns when the send is on disk, behind all others of its channel that were enqueued before. Where s has no ClientMsgNo one is
// made, and is in s then. Many callers at one time share a disk sync.
//
// The error is a *[FullError] where there is no room, a *client.Error where the send cannot be encoded, [ErrClosed], or the disk's. After
// an error of the disk it may be in the queue or not: enqueue it again, with the same ClientMsgNo.
func (q *Queue) Enqueue(s *client.Send) error { return q.enqueue(s, time.Time{}) }

func (q *Queue) enqueue(s *client.Send, uncertainSince time.Time) error {
	if err := s.Prepare(); err != nil {
		return err
	}
	now := time.Now()
	record, err := sealEntry(&Entry{Send: *s, EnqueuedAt: now, uncertainSince: uncertainSince})
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	key := laneOf(s)
	size := entryBytes(record)
	return q.use(func() error {
		if total := q.bytes.Add(size); total > q.cfg.BytesMax {
			q.bytes.Add(-size)
			return &FullError{BytesMax: q.cfg.BytesMax, Bytes: total - size, More: size}
		}
		var markedAt time.Time
		if q.lanes.open() { // it will be tried at once
			markedAt = now
		}
		first, err := q.store.append(key, record, markedAt)
		if err != nil {
			q.bytes.Add(-size)
			return fmt.Errorf("queue: enqueue: %w", err)
		}
		if !first {
			markedAt = time.Time{} // the mark is another's
		}
		q.entries.Add(1)
		q.lanes.add(key, 1, markedAt)
		return nil
	})
}

func entryBytes(record []byte) int64 { return int64(len(laneKey{}) + seqBytes + len(record)) }

// use runs what needs the store.
func (q *Queue) use(f func() error) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return ErrClosed
	}
	return f()
}

// Send sends s at once, as client.Client.Send does, and enqueues it where that fails in a way that may pass: also where ctx has ended. It
// enqueues it at once where others of its channel are waiting, so that it does not overtake them. Where s has no ClientMsgNo one is made,
// and is in s then.
//
// The result counts where queued is false and err is nil. Where queued is true the send is on disk, and OnSent will have its result. An
// error means that it is not in the queue: the server refused it, or Enqueue failed.
//
// A process that dies in Send has told nobody that the send is safe; what must survive that belongs into Enqueue.
func (q *Queue) Send(ctx context.Context, s *client.Send) (result client.Result, queued bool, err error) {
	if err := s.Prepare(); err != nil {
		return client.Result{}, false, err
	}
	var uncertainSince time.Time
	if !q.lanes.has(laneOf(s)) {
		start := time.Now()
		result, err = q.cfg.Client.Send(ctx, *s)
		if err == nil || client.IsRefused(err) {
			return result, false, err
		}
		if client.MaybeStored(err) {
			uncertainSince = start
		}
	}
	if failed := q.enqueue(s, uncertainSince); failed != nil {
		return client.Result{}, false, errors.Join(failed, err)
	}
	return client.Result{}, true, nil
}

// Stats says how full the queue is.
func (q *Queue) Stats() Stats {
	q.lanes.mu.Lock()
	channels := len(q.lanes.byKey)
	q.lanes.mu.Unlock()
	return Stats{Entries: int(q.entries.Load()), Channels: channels, DeadLetters: int(q.deadLetters.Load()), Bytes: q.bytes.Load()}
}

// Flush waits until nothing waits to be sent, or ctx ends.
func (q *Queue) Flush(ctx context.Context) error {
	if !q.lanes.empty(ctx) {
		return fmt.Errorf("queue: %d sends are still waiting: %w", q.entries.Load(), ctx.Err())
	}
	return nil
}

// Run delivers until ctx ends, and returns when no try is under way any more: after Config.DrainTimeout at most. What is left stays on disk.
// It can be called once. A disk that takes no changes is waited for; an error means that the queue's file is damaged or gone.
func (q *Queue) Run(ctx context.Context) error {
	if q.ran.Swap(true) {
		return ErrRunTwice
	}
	defer close(q.ended)
	// Tries under way when ctx ends may come to their end: a try that is cut off may have been stored.
	tries, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(q.closing, stop)()
	drain := time.AfterFunc(math.MaxInt64, cut)
	defer drain.Stop()
	defer context.AfterFunc(ctx, func() { drain.Reset(q.cfg.DrainTimeout) })()
	var workers sync.WaitGroup
	var once sync.Once
	var failure error
	for range q.cfg.Workers {
		workers.Go(func() {
			for one := q.lanes.next(ctx); one != nil; one = q.lanes.next(ctx) {
				if err := q.use(func() error { return q.serve(tries, one) }); err != nil {
					once.Do(func() { failure = err })
					stop()
				}
			}
		})
	}
	workers.Wait()
	if failure != nil {
		return fmt.Errorf("queue: %w", failure)
	}
	return nil
}

// Close ends Run as the end of its context does, waits for it, and closes the file. What is left stays there. Closing twice is harmless. It
// must not be called by OnSent or OnDead.
func (q *Queue) Close() error {
	q.beginClose()
	if q.ran.Load() {
		<-q.ended
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	// Whoever opens the queue next need not doubt what this process knows.
	err := q.store.unmark(q.lanes.allSure())
	if err = errors.Join(err, q.store.close()); err != nil {
		return fmt.Errorf("queue: close: %w", err)
	}
	return nil
}
