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

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Limits of a change.
const (
	changeTimeout  = 10 * time.Second
	attemptsMax    = 20
	attemptPause   = 20 * time.Millisecond // times the attempt, with jitter
	pagesInFlight  = 64
	purgeTimeout   = 3 * time.Second
	lockStripes    = 256
	purgeEachMax   = 8 // more pages than these are purged in one call, where that is possible
	recordRoom     = 1 << 10
	bucketSubjects = "$KV." + topology.PermissionBucket + "."
)

// Errors of a change that did not come to its end.
var (
	// ErrUnchanged: nothing has been changed, and NATS or this process is why.
	ErrUnchanged = errors.New("nothing was changed")
	// ErrUnknown: the change may be in force or not, or is not yet in force in this process.
	// Making it again is safe.
	ErrUnknown = errors.New("the change may be in force or not")
)

// errConflict: the record was changed by somebody else meanwhile.
var errConflict = errors.New("changed by others meanwhile")

// Change makes an edit of a channel's policy. Where it returns nil the edit is stored, with its mark, and in
// force in this process. An edit that changes nothing is nothing to store. Otherwise the error
// is one of ErrTooMany and ErrDamaged, ErrUnchanged, or ErrUnknown.
func (s *Store) Change(ctx context.Context, ch Channel, e Edit) error {
	start := time.Now()
	err := s.change(ctx, ch, e, false)
	s.metrics.changed(err, time.Since(start))
	return err
}

func (s *Store) change(ctx context.Context, ch Channel, e Edit, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	lock := s.locks[hash(ch.Name)%lockStripes] // those of this process need not fight each other
	select {
	case lock <- struct{}{}:
		defer func() { <-lock }()
	case <-ctx.Done():
		return fmt.Errorf("%w: too many changes of the same channel at one time", ErrUnchanged)
	}
	for n := range attemptsMax {
		err := s.attempt(ctx, ch, e, force)
		if !errors.Is(err, errConflict) {
			return err
		}
		s.metrics.conflicts.Inc()
		select {
		case <-time.After(time.Duration(randv2.Int64N(int64(n+1) * int64(attemptPause)))):
		case <-ctx.Done():
		}
		if err := s.sync(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrUnchanged, err)
		}
	}
	return fmt.Errorf("%w: other instances changed the same channel %d times meanwhile", ErrUnchanged, attemptsMax)
}

// attempt makes the edit of the policy that the cache holds. It is errConflict where that is
// not, or is no longer, what the bucket holds.
func (s *Store) attempt(ctx context.Context, ch Channel, e Edit, force bool) error {
	if err := s.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnchanged, err)
	}
	if !s.js.Conn().IsConnected() {
		return fmt.Errorf("%w: NATS cannot be reached", ErrUnchanged)
	}
	cache := s.cache.Load()
	base := cache.Policy(ch)
	next, err := base.edit(e)
	if force && err == nil && base.Has(damaged) {
		err = ErrDamaged
	}
	if err != nil || next == base && !force {
		// The cache may be a moment behind, so make sure before saying so.
		if syncErr := s.sync(ctx); syncErr != nil {
			return fmt.Errorf("%w: %w", ErrUnchanged, syncErr)
		}
		if cache.Policy(ch) != base || s.cache.Load() != cache {
			return errConflict
		}
		if err == nil { // of the change that made it so, the mark may not be stored
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
		if !errors.Is(err, ErrUnknown) { // a record that points to them may have been written
			s.purge(ctx, pages)
		}
		return err
	}
	if err := s.reach(ctx, revision); err != nil {
		return fmt.Errorf("%w: it is stored as revision %d, which has not come back in time: %w", ErrUnknown, revision, err)
	}
	s.purgeReplaced(ctx, ch, base, next, pages, revision)
	if err := s.raise(ctx); err != nil {
		return fmt.Errorf("%w: it is in force, and a loss of it would not be noticed: %w", ErrUnknown, err)
	}
	return nil
}

// storedPage is a page as it was stored.
type storedPage struct {
	list     List
	key      string
	revision uint64
}

// storePages stores the pages of a policy that are not stored yet, and gives them their ids.
// It returns those that it stored, also where it fails.
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
			set.leaves[i].id = id // the set was made by this edit: nobody else has it
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

// newID names a page for ever.
func newID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

// The codes of a refused compare-and-swap.
const (
	errCodeWrongLastSequence         jetstream.ErrorCode = 10071
	errCodeWrongLastSequenceConstant jetstream.ErrorCode = 10164
)

// storeRecord writes the policy in the place of base: the change itself. An empty policy has a record too, so that one that
// was deleted by hand is told from it; no process keeps it in memory.
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
	// There is none, and yet something is stored: that it is empty, or a record that the cache does not have.
	empty, err := s.emptyAt(ctx, msg.Subject)
	if err != nil {
		return 0, err
	}
	return storeAfter(ctx, s.js, msg, empty)
}

// storeAfter writes a record if the newest message of its key is the expected one; otherwise it is errConflict.
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

// emptyAt returns the revision of an empty record; errConflict if another one is there.
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

// purgeReplaced removes the pages that base pointed to and next does not.
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
		// All pages from before this change are gone. Those that came later are not ours.
		before := revision
		for _, page := range stored {
			if page.list == l {
				before = min(before, page.revision)
			}
		}
		s.purgeBefore(ctx, ch.pagesKey(l)+".*", before)
	}
}

// purge removes pages that nobody points to. What it cannot remove costs nothing but its space
// until a process starts and sweeps.
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
		s.log.Warn("pages of permissions that are no longer used could not be removed; they are swept at a later start", "pages", len(pages), "error", err)
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
		s.log.Warn("pages of permissions that are no longer used could not be removed; they are swept at a later start", "keys", keys, "error", err)
	}
}
