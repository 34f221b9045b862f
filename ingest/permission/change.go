package permission

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	randv2 "math/rand/v2"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Limits of a change.
const (
	changeTimeout  = 10 * time.Second
	attemptsMax    = 20
	attemptPause   = 20 * time.Millisecond // multiplied by the attempt's number, with jitter
	pagesInFlight  = 64
	purgeTimeout   = 3 * time.Second
	lockStripes    = 256
	purgeEachMax   = 8 // more pages than this are purged in one call, if possible
	recordRoom     = 1 << 10
	bucketSubjects = "$KV." + topology.PermissionBucket + "."
)

// Errors of a change that did not complete.
var (
	// ErrUnchanged: nothing was changed, because of NATS or this process.
	ErrUnchanged = errors.New("nothing was changed")
	// ErrUnknown: the change may be in force or not, or is not yet in force in this process. Repeating it is safe.
	ErrUnknown = errors.New("the change may be in force or not")
)

// errConflict: another process changed the record in the meantime.
var errConflict = errors.New("another process changed it in the meantime")

// Change applies an edit to a channel's policy. If it returns nil, the edit and its mark are stored, and the edit is in
// force in this process. An edit that changes nothing is not stored. The error wraps ErrTooMany, ErrDamaged, ErrUnchanged
// or ErrUnknown.
func (s *Store) Change(ctx context.Context, ch Channel, e Edit) error {
	start := time.Now()
	err := s.change(ctx, ch, e, false)
	s.metrics.changed(err, time.Since(start))
	return err
}

func (s *Store) change(ctx context.Context, ch Channel, e Edit, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	lock := s.locks[hash(ch.Name)%lockStripes] // avoids conflicts within this process
	select {
	case lock <- struct{}{}:
		defer func() { <-lock }()
	case <-ctx.Done():
		return fmt.Errorf("%w: too many concurrent changes of the same channel", ErrUnchanged)
	}
	for n := range attemptsMax {
		err := s.attempt(ctx, ch, e, force)
		if !errors.Is(err, errConflict) {
			return err
		}
		s.metrics.conflicts.Inc()
		_ = lifecycle.Pause(ctx, time.Duration(randv2.Int64N(int64(n+1)*int64(attemptPause)))) // sync returns the error of ctx
		if err := s.sync(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrUnchanged, err)
		}
	}
	return fmt.Errorf("%w: %d attempts conflicted with changes of the same channel by other instances", ErrUnchanged, attemptsMax)
}

// attempt applies the edit to the cached policy. It returns errConflict if that is not, or is no longer, what the bucket
// holds.
func (s *Store) attempt(ctx context.Context, ch Channel, e Edit, force bool) error {
	if err := s.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnchanged, err)
	}
	if !s.js.Conn().IsConnected() {
		return fmt.Errorf("%w: NATS is unreachable", ErrUnchanged)
	}
	cache := s.cache.Load()
	base := cache.Policy(ch)
	next, err := base.edit(e)
	if force && err == nil && base.Has(damaged) {
		err = ErrDamaged
	}
	if err != nil || next == base && !force {
		// The cache may lag behind the bucket, so make sure before reporting no change.
		if syncErr := s.sync(ctx); syncErr != nil {
			return fmt.Errorf("%w: %w", ErrUnchanged, syncErr)
		}
		if cache.Policy(ch) != base || s.cache.Load() != cache {
			return errConflict
		}
		if err == nil { // the mark of the earlier change may not be stored
			if markErr := s.raise(ctx); markErr != nil {
				return fmt.Errorf("%w: %w", ErrUnchanged, markErr)
			}
		}
		return err
	}
	if next == nil {
		next = &Policy{}
	}
	pages, err := s.storePages(ctx, ch, next)
	if err != nil {
		s.purge(ctx, pages)
		return fmt.Errorf("%w: store pages: %w", ErrUnchanged, err)
	}
	revision, err := s.storeRecord(ctx, ch, next, base)
	if err != nil {
		if !errors.Is(err, ErrUnknown) { // otherwise a record that points to them may have been written
			s.purge(ctx, pages)
		}
		return err
	}
	if err := s.reach(ctx, revision); err != nil {
		return fmt.Errorf("%w: it is stored as revision %d, which the watch has not delivered in time: %w", ErrUnknown, revision, err)
	}
	s.purgeReplaced(ctx, ch, base, next, pages, revision)
	if err := s.raise(ctx); err != nil {
		return fmt.Errorf("%w: it is in force, but a loss of it would not be noticed: %w", ErrUnknown, err)
	}
	return nil
}

// storedPage is a page in the bucket.
type storedPage struct {
	list     List
	key      string
	revision uint64
}

// storePages stores the pages of a policy that are not stored yet, and assigns their ids. It returns the pages that it
// stored, even if it fails.
func (s *Store) storePages(ctx context.Context, ch Channel, p *Policy) (stored []storedPage, err error) {
	type sent struct {
		page   storedPage
		future jetstream.PubAckFuture
	}
	var flying []sent
	settle := func() {
		first := flying[0]
		flying = flying[1:]
		select {
		case ack := <-first.future.Ok():
			first.page.revision = ack.Sequence
			stored = append(stored, first.page)
		case failed := <-first.future.Err():
			err = errors.Join(err, failed)
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
		}
	}
	for l := range lists {
		set := p.lists[l]
		if set.inline() {
			continue
		}
		for i := range set.leaves {
			if set.leaves[i].id != 0 || err != nil {
				continue
			}
			if len(flying) == pagesInFlight {
				settle()
			}
			id := newID()
			set.leaves[i].id = id // safe: this edit made the set, and nothing else refers to it
			data, encodeErr := set.leaves[i].page.record()
			if encodeErr != nil {
				err = errors.Join(err, encodeErr)
				continue
			}
			page := storedPage{list: l, key: ch.pageKey(l, id)}
			future, publishErr := s.js.PublishAsync(bucketSubjects+page.key, data)
			if publishErr != nil {
				err = errors.Join(err, publishErr)
				continue
			}
			flying = append(flying, sent{page, future})
		}
	}
	for len(flying) > 0 {
		settle()
	}
	return stored, err
}

// newID returns a page id that is never used again.
func newID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

// JetStream's error codes for a failed compare-and-swap.
const (
	errCodeWrongLastSequence         jetstream.ErrorCode = 10071
	errCodeWrongLastSequenceConstant jetstream.ErrorCode = 10164
)

// storeRecord replaces base with the policy, which is the change itself. An empty policy is stored as a record too, so
// that it differs from one that was deleted by hand; it is not kept in memory.
func (s *Store) storeRecord(ctx context.Context, ch Channel, p, base *Policy) (revision uint64, err error) {
	msg := &nats.Msg{Subject: bucketSubjects + ch.key()}
	if msg.Data, err = p.record(); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnchanged, err)
	}
	if most := s.js.Conn().MaxPayload(); most > 0 && int64(len(msg.Data)+recordRoom) > most {
		return 0, fmt.Errorf("%w: the channel's record would be %d bytes; NATS takes %d", ErrTooMany, len(msg.Data), most)
	}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout/2)
	defer cancel()
	if base != nil {
		return storeAfter(ctx, s.js, msg, base.revision)
	}
	revision, err = storeAfter(ctx, s.js, msg, 0)
	if !errors.Is(err, errConflict) {
		return revision, err
	}
	// The cache has no policy, but the key exists: it holds an empty record, or one that the cache has not seen.
	empty, err := s.emptyAt(ctx, msg.Subject)
	if err != nil {
		return 0, err
	}
	return storeAfter(ctx, s.js, msg, empty)
}

// storeAfter writes a record if the newest message of its key has the expected sequence; otherwise it returns errConflict.
func storeAfter(ctx context.Context, js jetstream.JetStream, msg *nats.Msg, expected uint64) (revision uint64, err error) {
	ack, err := js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(expected), jetstream.WithRetryAttempts(0))
	var refusal *jetstream.APIError
	switch {
	case err == nil:
		return ack.Sequence, nil
	case errors.As(err, &refusal) && (refusal.ErrorCode == errCodeWrongLastSequence || refusal.ErrorCode == errCodeWrongLastSequenceConstant):
		return 0, errConflict
	case errors.As(err, &refusal) && refusal.Code < http.StatusInternalServerError,
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, jetstream.ErrNoStreamResponse):
		return 0, fmt.Errorf("%w: %w", ErrUnchanged, err)
	default:
		return 0, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
}

// emptyAt returns the revision of an empty record, or errConflict if the record is not empty.
func (s *Store) emptyAt(ctx context.Context, subject string) (revision uint64, err error) {
	stream, err := s.js.Stream(ctx, bucketStream)
	var last *jetstream.RawStreamMsg
	if err == nil {
		last, err = stream.GetLastMsgForSubject(ctx, subject)
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, errConflict
	case err != nil:
		return 0, fmt.Errorf("%w: look for the channel's record: %w", ErrUnchanged, err)
	}
	p, err := readPolicy(last.Data, last.Sequence, func(uint64) *page { return nil })
	if err != nil || !p.isEmpty() {
		return 0, errConflict
	}
	return last.Sequence, nil
}

// purgeReplaced removes the pages that base points to and next does not.
func (s *Store) purgeReplaced(ctx context.Context, ch Channel, base, next *Policy, stored []storedPage, revision uint64) {
	for l := range lists {
		kept := make(map[uint64]bool)
		if set := next.lists[l]; !set.inline() {
			for _, leaf := range set.leaves {
				kept[leaf.id] = true
			}
		}
		var gone []storedPage
		retained := 0
		if set := base.List(l); set != nil {
			for _, leaf := range set.leaves {
				switch {
				case leaf.id == 0:
				case kept[leaf.id]:
					retained++
				default:
					gone = append(gone, storedPage{list: l, key: ch.pageKey(l, leaf.id)})
				}
			}
		}
		if len(gone) <= purgeEachMax || retained > 0 {
			s.purge(ctx, gone)
			continue
		}
		// All pages older than this change are purged. Later ones belong to other changes.
		before := revision
		for _, page := range stored {
			if page.list == l {
				before = min(before, page.revision)
			}
		}
		s.purgeBefore(ctx, ch.pagesKey(l)+".*", before)
	}
}

// purge removes pages that no record points to. A page that it fails to remove only takes up space until a process starts
// and sweeps it.
func (s *Store) purge(ctx context.Context, pages []storedPage) {
	if len(pages) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), purgeTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, bucketStream)
	for _, page := range pages {
		if err == nil {
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(bucketSubjects+page.key))
		}
	}
	if err != nil {
		s.log.Warn("cannot remove unused pages of permissions; a later start will sweep them", "pages", len(pages), "error", err)
	}
}

func (s *Store) purgeBefore(ctx context.Context, keys string, revision uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), purgeTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, bucketStream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(bucketSubjects+keys), jetstream.WithPurgeSequence(revision))
	}
	if err != nil {
		s.log.Warn("cannot remove unused pages of permissions; a later start will sweep them", "keys", keys, "error", err)
	}
}
