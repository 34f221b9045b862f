package queue

import (
	"sync"

	bolt "go.etcd.io/bbolt"
)

// commitChangesMax is how many callers share one commit.
const commitChangesMax = 1024

// committer makes many callers' changes in one transaction, so that they share its fsync. While one transaction is being written the next
// gathers; a lone caller waits for nobody. Changes are made in the order in which their callers came.
type committer struct {
	db     *bolt.DB
	update func(func(*bolt.Tx) error) error // db.Update

	mu      sync.Mutex
	waiting []*change
	busy    bool // somebody is committing, or has been told to
}

// change is what one caller wants done. It fails only as the database does: its error is everybody's.
type change struct {
	apply func(*bolt.Tx) error
	turn  chan turn
}

// turn tells a waiting caller that its change is done, or that it is to commit.
type turn struct {
	lead bool
	err  error
}

// commit returns when the change is on disk. After an error it may be or not.
func (c *committer) commit(apply func(*bolt.Tx) error) error {
	own := &change{apply: apply, turn: make(chan turn, 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, own)
	lead := !c.busy
	c.busy = true
	c.mu.Unlock()
	if !lead {
		if t := <-own.turn; !t.lead {
			return t.err
		}
	}
	return c.lead(own)
}

// lead commits what waits, own in front, and passes the lead on.
func (c *committer) lead(own *change) error {
	c.mu.Lock()
	n := min(len(c.waiting), commitChangesMax)
	batch := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	c.mu.Unlock()
	err := c.update(func(tx *bolt.Tx) error {
		for _, one := range batch {
			if err := one.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, one := range batch {
		if one != own {
			one.turn <- turn{err: err}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.waiting, c.busy = nil, false
	} else {
		c.waiting[0].turn <- turn{lead: true}
	}
	return err
}
