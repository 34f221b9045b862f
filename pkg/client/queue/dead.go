package queue

import (
	"fmt"
	"time"
)

// DeadLetters gives up to most dead letters in the order of their IDs, beginning behind one: 0 for the first, and the last one's ID to go on.
func (q *Queue) DeadLetters(after uint64, most int) ([]DeadLetter, error) {
	var all []DeadLetter
	err := q.use(func() error {
		return q.store.deadAfter(after, most, func(id uint64, record []byte) {
			var d DeadLetter
			if err := unseal(record, &d); err != nil {
				d = DeadLetter{Reason: Damaged, Text: err.Error(), Raw: record}
			}
			d.ID = id
			all = append(all, d)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("queue: dead letters: %w", err)
	}
	return all, nil
}

// DropDead removes a dead letter. One that is not there is no error.
func (q *Queue) DropDead(id uint64) error {
	return q.use(func() error { return q.dropDead(id, nil) })
}

// Revive puts a dead letter behind the waiting sends of its channel, as if it were new, and removes it from the dead ones, in one step. A send
// that is dead for [Uncertain] may then be stored twice. One that is not there, or whose record is damaged, is an error.
func (q *Queue) Revive(id uint64) error {
	if id == 0 {
		return fmt.Errorf("queue: revive: there is no dead letter %d", id)
	}
	found, err := q.DeadLetters(id-1, 1)
	switch {
	case err != nil:
		return err
	case len(found) == 0 || found[0].ID != id:
		return fmt.Errorf("queue: revive: there is no dead letter %d", id)
	case found[0].Reason == Damaged:
		return fmt.Errorf("queue: revive dead letter %d: %w", id, errDamaged)
	}
	return q.use(func() error {
		return q.dropDead(id, &Entry{Send: found[0].Send, EnqueuedAt: time.Now()})
	})
}

// dropDead removes a dead letter, and enqueues an entry for it if there is one.
func (q *Queue) dropDead(id uint64, e *Entry) error {
	var record []byte
	var key laneKey
	if e != nil {
		var err error
		if record, err = sealEntry(e); err != nil {
			return fmt.Errorf("queue: %w", err)
		}
		key = laneOf(&e.Send)
	}
	size, err := q.store.dropDead(id, key, record)
	switch {
	case err != nil:
		return fmt.Errorf("queue: dead letter %d: %w", id, err)
	case size == 0:
		return nil // somebody else was faster
	}
	q.deadLetters.Add(-1)
	q.bytes.Add(-size)
	if e != nil {
		q.bytes.Add(entryBytes(record))
		q.entries.Add(1)
		q.lanes.add(key, 1, time.Time{})
	}
	return nil
}
