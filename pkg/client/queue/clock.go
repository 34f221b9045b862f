package queue

import (
	"sync"
	"time"
)

// clock is the wall clock, but never goes back: if the wall clock is set back, it advances by the time that passes. The time that a machine is
// suspended is in it, since the wall clock advances meanwhile.
type clock struct {
	mu   sync.Mutex
	ms   int64     // Unix, at
	at   time.Time // with the monotonic clock
	disk int64     // the latest time that the disk has
	next uint64    // the number of the next entry, at least
}

// nowMS is the time in Unix milliseconds.
func (c *clock) nowMS() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *clock) now() int64 {
	now := time.Now()
	if c.at.IsZero() {
		c.at = now
	}
	c.ms, c.at = max(now.UnixMilli(), c.ms+now.Sub(c.at).Milliseconds()), now
	return c.ms
}

// seen keeps the clock from showing less than a time that the disk has.
func (c *clock) seen(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now()
	c.ms, c.disk = max(c.ms, ms), max(c.disk, ms)
}

// seenMS is the latest time that the disk has.
func (c *clock) seenMS() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.disk
}

// numberBits are those of an entry's number that count within a millisecond. The others are when it came.
const numberBits = 20

// numbers makes the numbers of n new entries, which follow each other, and returns the first. Numbers grow.
func (c *clock) numbers(n int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := max(c.next+1, uint64(c.now())<<numberBits)
	c.next = first + uint64(n) - 1
	return first
}

// used keeps a number, and smaller ones, from being made.
func (c *clock) used(number uint64) {
	c.seen(msOf(number))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = max(c.next, number)
}

func msOf(number uint64) int64 { return int64(number >> numberBits) }
