package runner

import (
	"sync"
	"time"
)

const (
	// clockOffMax is how far two clocks may differ before that is logged: more than the network and a busy machine explain.
	clockOffMax = 5 * time.Second
	// clockBackMax is how much earlier than the one before it a record may be before that is logged. The servers of a cluster, which
	// lead in turn, differ by less.
	clockBackMax = time.Second
	// clockSettled is after how long a step of the machine's clock counts as its correction.
	clockSettled = 10 * time.Minute
)

// brokerClock compares the broker's clock with the process's own. That one is the machine's as it was at first, moved on
// evenly: on one machine the broker's clock and the machine's step together, and comparing them would show nothing. It follows a
// step of the machine's clock once the clock has run evenly for clockSettled, so that a correction is not held against it for ever.
//
// Any goroutine may use it.
type brokerClock struct {
	mu     sync.Mutex
	own    time.Time     // what the own clock showed at start
	start  time.Time     // a moment with its monotonic reading
	step   time.Duration // of the machine's clock against it
	since  time.Time     // when the step was seen first
	offset time.Duration // the broker's time less the own, at the last look
	plain  time.Duration // the broker's time less the machine's
	last   time.Time     // the newest record's
}

// look takes what the broker's clock showed between two moments, and returns how far it is ahead of the process's own; negative if
// behind.
func (c *brokerClock) look(before, after, broker time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := before.Add(after.Sub(before) / 2)
	if c.own.IsZero() {
		c.own, c.start, c.since = now.Round(0), now, now
	}
	step := now.Round(0).Sub(c.at(now))
	if (step - c.step).Abs() > clockBackMax {
		c.step, c.since = step, now
	}
	if c.step != 0 && now.Sub(c.since) >= clockSettled {
		c.own, c.start, c.step = now.Round(0), now, 0
	}
	c.offset, c.plain = broker.Sub(c.at(now)), broker.Sub(now.Round(0))
	return c.offset
}

// at is what the own clock shows at a moment.
func (c *brokerClock) at(now time.Time) time.Time { return c.own.Add(now.Sub(c.start)) }

// record takes the time of the next record, and returns by how much the broker's clock has stepped before it: back, if the record is
// older than the one before; ahead, if it is newer than can be. Zero if it has not, or that cannot be known.
func (c *brokerClock) record(now, stored time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := stored.Sub(c.last)
	first := c.last.IsZero()
	c.last = stored
	if first {
		return 0
	}
	if since < -clockBackMax {
		return since
	}
	if c.own.IsZero() {
		return 0
	}
	if ahead := stored.Sub(c.at(now).Add(c.offset)); ahead > clockOffMax && since > clockOffMax {
		return min(ahead, since)
	}
	return 0
}

// ago is how long ago a record was stored, by the broker's clock.
func (c *brokerClock) ago(now, stored time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Round(0).Add(c.plain).Sub(stored)
}
