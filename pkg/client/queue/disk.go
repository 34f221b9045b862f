package queue

import (
	"errors"
	"fmt"
	"time"

	berrors "go.etcd.io/bbolt/errors"
)

// errDisk says that the disk did not take a change: it is full, or fails. That may pass, so the change is made again later.
var errDisk = errors.New("the disk did not take a change")

// disk takes what became of a change, and makes it an errDisk where it may pass. The log hears of the first that fails, and of the first that
// does not any more.
func (q *Queue) disk(err error) error {
	if err == nil {
		if q.diskFails.CompareAndSwap(true, false) {
			q.cfg.Logger.Info("the queue's disk takes changes again", "dir", q.cfg.Dir)
		}
		return nil
	}
	for _, lost := range []error{berrors.ErrDatabaseNotOpen, berrors.ErrInvalidMapping, berrors.ErrInvalid, berrors.ErrChecksum} {
		if errors.Is(err, lost) {
			return err
		}
	}
	if q.diskFails.CompareAndSwap(false, true) {
		q.cfg.Logger.Error("the queue's disk takes no changes, and sends wait until it does; it may be full", "dir", q.cfg.Dir, "error", err)
	}
	return fmt.Errorf("%w: %w", errDisk, err)
}

// mark says on disk since when a try of a lane's first entry may have been stored: now, unless an earlier one may have been.
func (q *Queue) mark(one *lane) error {
	since := one.uncertainSince
	if since.IsZero() {
		since = time.Now()
	}
	if err := q.disk(q.store.mark(one.key, one.seq, since)); err != nil {
		return err
	}
	one.marked, one.markedAt = true, since
	return nil
}

// unmark takes back what the disk says of the first entries of lanes that the caller has: they are surely not stored. Where the disk does not
// take that, there are doubts about them after a crash, and nothing worse.
func (q *Queue) unmark(lanes []*lane) error {
	if len(lanes) == 0 {
		return nil
	}
	for _, one := range lanes {
		one.marked = false // also where this fails: the disk may say either
	}
	if err := q.disk(q.store.unmark(lanes)); !errors.Is(err, errDisk) {
		return err
	}
	return nil
}
