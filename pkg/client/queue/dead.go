package queue

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sendhouse/sendhouse/pkg/client/internal/journal"
)

// DeadLetters returns up to most dead letters in the order of their numbers, beginning after one: 0 for the first, and the last one's number to
// continue.
func (q *Queue) DeadLetters(after uint64, most int) ([]DeadLetter, error) {
	var all []DeadLetter
	err := q.use(func() error {
		var found []item
		q.mu.Lock()
		q.dead.all(after+1, func(i *item) bool {
			if len(found) == most {
				return false
			}
			found = append(found, *i)
			return len(found) < most
		})
		q.mu.Unlock()
		for _, i := range found {
			d, err := q.deadLetter(i)
			if errors.Is(err, errNotThere) {
				continue // dropped meanwhile
			} else if err != nil {
				return err
			}
			all = append(all, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("queue: dead letters: %w", err)
	}
	return all, nil
}

// deadLetter reads one.
func (q *Queue) deadLetter(i item) (DeadLetter, error) {
	record, err := q.record(i, nil, q.dead.find)
	if errors.Is(err, journal.ErrDamaged) {
		return DeadLetter{Number: i.number, Reason: Damaged, Text: err.Error()}, nil
	} else if err != nil {
		return DeadLetter{}, err
	}
	d := DeadLetter{Number: i.number}
	if err := json.Unmarshal(record[itemHeadBytes:], &d); err != nil {
		return DeadLetter{}, err
	}
	return d, nil
}

// DropDead removes a dead letter. One that is not there is no error.
func (q *Queue) DropDead(number uint64) error {
	q.deadMu.Lock()
	defer q.deadMu.Unlock()
	return q.use(func() error {
		if err := q.journal.Commit(func(b *journal.Batch) { b.Add(kindDrop, dropRecord(number)) }); err != nil {
			return fmt.Errorf("queue: drop dead letter %d: %w", number, err)
		}
		return nil
	})
}

func dropRecord(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

// Revive puts a dead letter after the waiting sends of its channel and removes it from the dead ones, in one step. If a try of it may have been
// stored, that stays so: the server is asked before it is sent. One that is dead for [Uncertain], and of which the server cannot tell,
// dies again; if you know better, enqueue its Send and drop it.
func (q *Queue) Revive(number uint64) error {
	q.deadMu.Lock()
	defer q.deadMu.Unlock()
	found, err := q.DeadLetters(number-1, 1)
	switch {
	case err != nil:
		return err
	case number == 0 || len(found) == 0 || found[0].Number != number:
		return fmt.Errorf("queue: revive %d: %w", number, errNotThere)
	case found[0].Reason == Damaged:
		return fmt.Errorf("queue: revive dead letter %d: %s", number, found[0].Text)
	}
	s := found[0].Send
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	var since uint32
	if found[0].MaybeStored {
		since = uint32(found[0].MaybeStoredSince.Unix())
	}
	return q.use(func() error {
		err := q.journal.Commit(func(b *journal.Batch) {
			b.Add(kindDrop, dropRecord(number))
			b.Add(kindPut, itemHead(laneOf(&s), q.clock.numbers(1), since), putBody(&s, text))
		})
		if err != nil {
			return fmt.Errorf("queue: revive dead letter %d: %w", number, err)
		}
		return nil
	})
}
