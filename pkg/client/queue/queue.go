package queue

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/internal/journal"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// Reasons for which a queue does not do what it is asked.
var (
	// ErrLocked: another process, or another Queue of this one, has the folder.
	ErrLocked = errors.New("the queue is in use by another process")
	// ErrClosed: Close has been called.
	ErrClosed = errors.New("the queue is closed")
	// ErrGone: the queue's files have been deleted or replaced while it was open. It ends Run, and every later call fails with it.
	ErrGone = journal.ErrGone
	// ErrRunTwice is returned by a second Run.
	ErrRunTwice = errors.New("queue: it runs already, or did")
)

// FullError is the error of sends that have no room. None of them was enqueued.
type FullError struct {
	// BytesMax is the queue's bound, Bytes what is in it, dead letters included, and More what the sends would add.
	BytesMax, Bytes, More int64
}

// Error names the bound.
func (e *FullError) Error() string {
	return fmt.Sprintf("queue: full: %d bytes, with %d more than the %d it may hold (dead letters count: see DropDead)", e.Bytes, e.More, e.BytesMax)
}

// Stats is the state of a queue.
type Stats struct {
	Entries     int   // sends that wait
	Channels    int   // channels that they are for
	DeadLetters int   // sends given up
	Bytes       int64 // of both
	FileBytes   int64 // of the files

	Oldest time.Duration // how long the oldest send has waited
	// Shut: the server takes nothing, since ShutFor; one send probes. LastError is why, and stays until the server takes sends again.
	Shut      bool
	ShutFor   time.Duration
	LastError error
	// DiskFails: the last change of a delivery was not taken.
	DiskFails bool
}

// Queue keeps sends on disk and delivers them. Its methods may be called from many goroutines.
//
// # What a send goes through
//
//		        Enqueue            begin             200
//		 ( ) ───────────▶ queued ─────────▶ marked ─────────▶ delivered
//		                    ▲  ▲              │  │ refused
//		                    │  └──────────────┘  └──────────▶ dead
//		                    │   not stored         │ no answer, or none that counts
//		                    │                      ▼
//		                    └─────────────────  doubtful ───▶ delivered, dead
//		                        not stored
//
//	  - queued: it is on disk, and no try of it can be stored.
//	  - marked: the disk has the time at which a try begins. No byte of a request leaves before that. A process that dies leaves it doubtful.
//	  - doubtful: a try may be stored. Until the server may have forgotten that try it is simply tried again, with its mark of the first one.
//	    After that the server is asked: it is stored (delivered), or is not (queued), or it is not known (dead, for Uncertain).
//	  - delivered and dead are ends: the record of the end is on disk.
//
// Each arrow is one record in a transaction of the journal. Memory changes in [Queue.apply] and nowhere else: with a record that is on disk, or that is
// read from it at the start. So a try knows what the disk says, whatever other callers have done meanwhile; and what a crash leaves is what
// memory was.
//
// Marks, ends and the taking back of a mark are of a run: the first sends of a channel, in order. Of the outcomes of a run those count that
// come before the first send with no end. So a channel is always cut in two: what has an end, and what follows in order.
//
// Lock order: the journal calls apply, which takes mu. Nothing commits while it has mu.
type Queue struct {
	cfg       Config
	lock      *os.File
	journal   *journal.Journal
	clock     clock
	diskFails atomic.Bool
	failure   atomic.Pointer[error]

	mu sync.Mutex
	lanes
	gate     gate
	window   window
	doubters int
	reserved int64 // bytes that are being enqueued
	handles  map[uint64]promise

	deadMu sync.Mutex // of Revive and DropDead

	closeMu    sync.RWMutex // held for reading by everything that uses the journal
	closed     bool
	ran        atomic.Bool
	ended      chan struct{}      // closed when Run has returned, if it was called
	closing    context.Context    //nolint:containedctx // ends when Close is called or the files are gone, and with it Run
	beginClose context.CancelFunc // ends closing
}

const (
	lockFile = "lock"
	// slackBytes is what files may hold in vain, however little is in the queue: so a queue through which much goes does not begin files all the time.
	slackBytes = 1 << 20
)

// Open opens the queue in cfg.Dir, or makes it, and keeps other processes out until Close or the end of this one. It reads all that is there;
// nothing is sent before Run. Damaged files are no error: see the package's comment.
func Open(cfg Config) (*Queue, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{cfg: cfg, lanes: newLanes(), handles: make(map[uint64]promise), ended: make(chan struct{})}
	q.closing, q.beginClose = context.WithCancel(context.Background())
	if err := q.open(); err != nil {
		return nil, fmt.Errorf("queue: %s: %w", cfg.Dir, err)
	}
	return q, nil
}

func (q *Queue) open() (err error) {
	dir := q.cfg.Dir
	if err := journal.MakeDir(dir); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "queue.db")); err == nil {
		return errors.New("queue.db is the file of an earlier version; let that version send what is in it, then remove it")
	}
	locked := (*lifecycle.LockedError)(nil)
	q.lock, err = lifecycle.Lock(filepath.Join(dir, lockFile), time.Second, nil)
	if errors.As(err, &locked) {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	} else if err != nil {
		return err
	}
	var damages []journal.Damage
	q.journal, err = journal.Open(journal.Config{
		Dir: dir, SegmentBytes: q.cfg.segmentBytes(), Apply: q.apply, Live: q.liveIn, Keep: q.keep, Excess: q.excess, Write: q.cfg.write,
		Damaged: func(d journal.Damage) {
			damages = append(damages, d)
			// A mark may be lost. It was written after what has been read so far.
			q.doubtAll(max(1, secondsOf(q.clock.seenMS())))
		},
	})
	if err == nil {
		err = q.renew(damages)
	}
	if err != nil {
		return errors.Join(err, q.lock.Close())
	}
	q.load()
	return nil
}

// renew writes what could be read of damaged files to new ones, and a dead letter for each region that could not.
func (q *Queue) renew(damages []journal.Damage) error {
	err := q.journal.Renew()
	for _, d := range damages {
		if err != nil {
			break
		}
		letter := DeadLetter{Number: q.clock.numbers(1), Reason: Damaged, DiedAt: time.Now(),
			Text: fmt.Sprintf("%s: %d bytes at %d cannot be read (%s); what was in them is lost to the queue", d.File, d.Bytes, d.Offset, d.Reason)}
		var text []byte
		if text, err = json.Marshal(letter); err == nil {
			err = q.journal.Commit(func(b *journal.Batch) { b.Add(kindDead, itemHead(laneKey{}, letter.Number, 0), text) })
		}
		q.cfg.Logger.Error("a file of the queue is damaged; it was set aside, and all that can be read of it was kept",
			"file", d.File, "offset", d.Offset, "bytes", d.Bytes, "reason", d.Reason)
	}
	if err != nil {
		return errors.Join(err, q.journal.Close())
	}
	return nil
}

// apply takes in a record that is on disk. Only here memory changes what it has of the sends.
func (q *Queue) apply(kind byte, body []byte, at journal.Pos) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := fields(body)
	switch kind {
	case kindPut:
		key := f.key()
		i := item{number: f.u64(), since: f.u32(), at: at}
		q.clock.used(i.number)
		q.put(key, i)
	case kindMark:
		key := f.key()
		first, last, since := f.u64(), f.u64(), f.u32()
		q.clock.seen(int64(since) * 1000)
		q.mark(key, first, last, since)
	case kindGone:
		key := f.key()
		q.gone(key, f.u64())
	case kindDead:
		key := f.key()
		i := item{number: f.u64(), since: f.u32(), at: at}
		q.clock.used(i.number)
		q.die(key, i)
	case kindDrop:
		q.drop(f.u64())
	}
}

// liveIn is how many bytes of a segment still count.
func (q *Queue) liveIn(segment uint32) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.live[segment]
}

// keep returns a record as it is to be written again, and whether it still counts: whether memory has it from this very place.
func (q *Queue) keep(kind byte, body []byte, at journal.Pos) ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var i *item
	switch kind {
	case kindPut:
		f := fields(body)
		if one := q.byKey[f.key()]; one != nil {
			i = one.find(f.u64())
		}
	case kindDead:
		f := fields(body)
		f.key()
		i = q.dead.find(f.u64())
	}
	if i == nil || i.at != at {
		return nil, false
	}
	binary.BigEndian.PutUint32(body[itemHeadBytes-4:], i.since)
	return body, true
}

// record reads the record of an item. The journal moves records while it tidies up, so if the place that is known cannot be read, find
// looks up the current one, under the lock. The error is errNotThere if the item has left the queue meanwhile.
func (q *Queue) record(i item, find func(number uint64) *item) ([]byte, error) {
	for {
		record, err := q.journal.Read(i.at)
		if err == nil {
			return record, nil
		}
		q.mu.Lock()
		now := find(i.number)
		switch {
		case now == nil:
			err = errNotThere
		case now.at != i.at:
			i.at, err = now.at, nil
		}
		q.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// excess reports whether files of so many bytes are too large for what is in them: more than twice that, or than the bound allows. So a byte is
// written again once at most, on average.
func (q *Queue) excess(bytes int64) bool {
	q.mu.Lock()
	total := q.bytes
	q.mu.Unlock()
	segment := q.cfg.segmentBytes()
	return bytes-total > max(min(2*segment, slackBytes), min(total, q.cfg.BytesMax-6*segment))
}

// Enqueue returns when the sends are on disk, all or none of them, each after those of its channel that were enqueued before. A send with no
// ClientMsgNo gets one, which its handle has. Many callers at one time share a disk sync. The handles can be waited on, or ignored.
//
// The error is a *[FullError] if there is no room, a *client.Error for a send that the server would refuse, [ErrClosed], [ErrGone], or the
// disk's. After an error of the disk they may be in the queue or not: enqueue them again, with the same ClientMsgNo. If ctx ends before they are
// written, nothing is.
func (q *Queue) Enqueue(ctx context.Context, sends ...client.Send) ([]*Handle, error) {
	return q.enqueue(ctx, sends, 0)
}

func (q *Queue) enqueue(ctx context.Context, sends []client.Send, since uint32) ([]*Handle, error) {
	type put struct {
		key  laneKey
		body []byte
	}
	puts := make([]put, len(sends))
	handles := newHandles(q, len(sends))
	size := int64(0)
	for i, s := range sends {
		if err := q.prepare(&s); err != nil {
			return nil, err
		}
		text, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		puts[i] = put{laneOf(&s), putBody(&s, text)}
		handles[i].ClientMsgNo = s.ClientMsgNo
		size += int64(itemHeadBytes + journal.Overhead + len(puts[i].body))
	}
	if len(sends) == 0 {
		return nil, nil
	}
	err := q.use(func() error {
		if err := q.reserve(size); err != nil {
			return err
		}
		cut := false
		err := q.journal.Commit(func(b *journal.Batch) {
			if cut = ctx.Err() != nil; cut {
				return
			}
			first := q.clock.numbers(len(puts))
			for i := range puts {
				handles[i].Number = first + uint64(i)
				b.Add(kindPut, itemHead(puts[i].key, handles[i].Number, since), puts[i].body)
			}
			q.promise(handles)
		})
		q.mu.Lock()
		q.reserved -= size
		q.mu.Unlock()
		if err == nil && cut {
			err = context.Cause(ctx)
		}
		if errors.Is(err, journal.ErrGone) {
			q.fail(fmt.Errorf("queue: %w", err))
		}
		return err
	})
	if err == nil {
		return handles, nil
	}
	q.unpromise(handles[0].Number, len(handles)) // the sends may be on disk or not
	if full := (*FullError)(nil); errors.As(err, &full) {
		return nil, err
	}
	return nil, fmt.Errorf("queue: enqueue: %w", err)
}

// prepare checks a send by the server's rules.
func (q *Queue) prepare(s *client.Send) error {
	if n := len(s.Payload); n > q.cfg.PayloadBytesMax {
		return &client.Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Field: "payload",
			Msg: fmt.Sprintf("payload is %d bytes; at most %d are taken; it was not sent", n, q.cfg.PayloadBytesMax)}
	}
	return s.Prepare()
}

// reserve makes room for bytes that are about to be enqueued.
func (q *Queue) reserve(size int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if have := q.bytes + q.reserved; have+size > q.cfg.BytesMax {
		return &FullError{BytesMax: q.cfg.BytesMax, Bytes: have, More: size}
	}
	q.reserved += size
	return nil
}

// use runs what needs the journal.
func (q *Queue) use(f func() error) error {
	q.closeMu.RLock()
	defer q.closeMu.RUnlock()
	if q.closed {
		return ErrClosed
	}
	if err := q.fatal(); err != nil {
		return err
	}
	return f()
}

// fail ends the queue.
func (q *Queue) fail(err error) {
	if q.failure.CompareAndSwap(nil, &err) {
		q.cfg.Logger.Error("the queue has ended", "error", err)
		q.beginClose()
	}
}

// fatal is why the queue has ended, if it has.
func (q *Queue) fatal() error {
	if err := q.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Send tries s once, now, and enqueues it if that fails in a way that may pass, also if ctx has ended. It enqueues it at once while others of its
// channel are waiting, so that it does not overtake them, and while the server takes nothing.
//
// The result counts if queued is nil and err is nil. Otherwise queued is the handle of the send, which is on disk. An error means that it is
// not in the queue: the server refused it, or Enqueue failed.
//
// A process that dies in Send has told no caller that the send is safe; what must survive that belongs into Enqueue.
func (q *Queue) Send(ctx context.Context, s client.Send) (result client.Result, queued *Handle, err error) {
	if err := q.prepare(&s); err != nil {
		return client.Result{}, nil, err
	}
	q.mu.Lock()
	now := q.byKey[laneOf(&s)] == nil && q.gate.tries == 0
	q.mu.Unlock()
	var since uint32
	if now {
		start := secondsOf(q.clock.nowMS())
		if result, err = q.cfg.Client.Try(ctx, s); err == nil || client.IsRefused(err) {
			return result, nil, err
		}
		if client.MaybeStored(err) {
			since = start
		}
	}
	handles, failed := q.enqueue(context.WithoutCancel(ctx), []client.Send{s}, since)
	if failed != nil {
		return client.Result{}, nil, errors.Join(failed, err)
	}
	return client.Result{}, handles[0], nil
}

// Stats returns the state of the queue.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{
		Entries: q.entries, Channels: len(q.byKey), DeadLetters: q.dead.n, Bytes: q.bytes, FileBytes: q.journal.Bytes(),
		Shut: q.gate.tries > 0, LastError: cmp.Or(q.fatal(), q.gate.err), DiskFails: q.diskFails.Load(),
	}
	oldest := uint64(math.MaxUint64)
	for _, one := range q.byKey {
		if one.n > 0 {
			oldest = min(oldest, one.first().number)
		}
	}
	if q.entries > 0 {
		s.Oldest = time.Duration(q.clock.nowMS()-msOf(oldest)) * time.Millisecond
	}
	if s.Shut {
		s.ShutFor = time.Since(q.gate.since)
	}
	return s
}

// Flush waits until nothing waits to be sent, the queue has ended, or ctx ends.
func (q *Queue) Flush(ctx context.Context) error {
	for {
		q.mu.Lock()
		left, changed := q.entries, q.changed
		q.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-q.closing.Done():
			return fmt.Errorf("queue: %d sends are still waiting: %w", left, cmp.Or(q.fatal(), ErrClosed))
		case <-ctx.Done():
			return fmt.Errorf("queue: %d sends are still waiting: %w", left, ctx.Err())
		}
	}
}

// Run delivers until ctx ends, and returns when no try is under way any more: after Config.DrainTimeout at most. What is left stays on disk.
// It can be called once. A disk that takes no changes is waited for. An error ends the queue, so that it is also that of every later call and of
// Close: one that nothing receives is not lost.
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
	for range q.cfg.Workers {
		workers.Go(func() {
			for j := q.next(ctx); j != nil; j = q.next(ctx) {
				q.do(tries, j)
			}
		})
	}
	workers.Wait()
	return q.fatal()
}

// Close ends Run as the end of its context does, waits for it, and closes the files. What is left stays there. Its error is also Run's. Closing
// twice is harmless. It must not be called by OnSent or OnDead.
func (q *Queue) Close() error {
	q.beginClose()
	if q.ran.Load() {
		<-q.ended
	}
	q.closeMu.Lock()
	defer q.closeMu.Unlock()
	if q.closed {
		return q.fatal()
	}
	q.closed = true
	if err := errors.Join(q.fatal(), q.journal.Close(), q.lock.Close()); err != nil {
		return fmt.Errorf("queue: close: %w", err)
	}
	return nil
}
