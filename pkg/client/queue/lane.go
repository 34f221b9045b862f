package queue

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// lane is a channel that has sends waiting. Its fields below pending belong to the worker that has it; the others to the lanes' lock.
type lane struct {
	key     laneKey
	pending int       // entries
	at      time.Time // of the next try, while it waits

	// What is known of the first entry.
	seq            uint64    // 0: it has not been read
	uncertainSince time.Time // zero: no try can have been stored
	marked         bool      // the disk says that it may have been tried
	markedAt       time.Time
	tries          int
	leave          func() error // it is settled, and this takes it off the disk; nil: it is to be tried
}

// lanes says which lane is to be served next. A lane is ready, waits for a time, or a worker has it; one with nothing pending is not kept.
//
// While the gate is shut (the server is away) one lane at a time goes through, to see whether it is back.
type lanes struct {
	backoffMin, backoffMax time.Duration

	mu      sync.Mutex
	byKey   map[laneKey]*lane
	ready   []*lane // first in, first out
	waiting laneHeap
	changed chan struct{} // closed and replaced when there may be something to serve

	gateTries int // failures in a row; 0: the gate is open
	gateAt    time.Time
	probing   bool
}

func newLanes(backoffMin, backoffMax time.Duration) *lanes {
	return &lanes{backoffMin: backoffMin, backoffMax: backoffMax, byKey: make(map[laneKey]*lane), changed: make(chan struct{})}
}

// add counts entries that have been put behind the others of their lane, and makes the lane ready if it is new. The first one may be marked.
func (l *lanes) add(key laneKey, entries int, markedAt time.Time) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.byKey[key]
	if one == nil {
		one = &lane{key: key, marked: !markedAt.IsZero(), markedAt: markedAt}
		l.byKey[key] = one
		l.ready = append(l.ready, one)
		l.wake()
	}
	one.pending += entries
	return one
}

// has says whether a lane has anything waiting.
func (l *lanes) has(key laneKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byKey[key] != nil
}

// next waits for a lane that is to be served. It gives nil when ctx ends.
func (l *lanes) next(ctx context.Context) *lane {
	for ctx.Err() == nil {
		one, at, changed := l.take(time.Now())
		if one != nil {
			return one
		}
		var due <-chan time.Time
		stop := func() bool { return true }
		if !at.IsZero() {
			timer := time.NewTimer(time.Until(at))
			due, stop = timer.C, timer.Stop
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-due:
		}
		stop()
	}
	return nil
}

// take gives a lane that can be served now; or when to look again (zero: not by time), and what is closed if it is to be earlier.
func (l *lanes) take(now time.Time) (*lane, time.Time, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 && !l.waiting[0].at.After(now) {
		l.ready = append(l.ready, heap.Pop(&l.waiting).(*lane))
	}
	open := l.gateTries == 0
	if len(l.ready) > 0 && (open || !l.probing && !l.gateAt.After(now)) {
		l.probing = !open
		one := l.ready[0]
		l.ready[0] = nil
		l.ready = l.ready[1:]
		return one, time.Time{}, nil
	}
	var at time.Time
	switch {
	case len(l.ready) > 0 && !l.probing:
		at = l.gateAt
	case len(l.waiting) > 0:
		at = l.waiting[0].at
	}
	return nil, at, l.changed
}

// done gives a lane back whose first entry has left.
func (l *lanes) done(one *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one.pending--
	if one.pending == 0 {
		delete(l.byKey, one.key)
	} else {
		l.ready = append(l.ready, one)
	}
	l.wake()
}

// later gives a lane back whose first entry is to be tried again.
func (l *lanes) later(one *lane, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one.at = time.Now().Add(wait)
	heap.Push(&l.waiting, one)
	l.wake()
}

// reached opens the gate. It says whether it was shut.
func (l *lanes) reached() (was bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was = l.gateTries > 0
	l.gateTries, l.probing = 0, false
	l.wake()
	return was
}

// away shuts the gate, or keeps it shut for longer, for at least the time that the server asked for; the lane is ready behind it. It says
// whether the gate was open.
func (l *lanes) away(one *lane, asked time.Duration) (was bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Of many tries that fail at one time only the first counts.
	if l.gateTries == 0 || l.probing {
		was = l.gateTries == 0
		l.gateTries++
		l.gateAt = time.Now().Add(max(asked, l.backoff(l.gateTries)))
		l.probing = false
	}
	l.ready = append([]*lane{one}, l.ready...)
	l.wake()
	return was
}

// undecided ends a probe that did not come to asking the server.
func (l *lanes) undecided() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probing = false
	l.wake()
}

// backoff is the pause after so many failures.
func (l *lanes) backoff(failures int) time.Duration {
	wait := l.backoffMax
	if doublings := failures - 1; doublings < 32 && l.backoffMin<<doublings>>doublings == l.backoffMin {
		wait = min(l.backoffMin<<doublings, l.backoffMax)
	}
	return wait - rand.N(wait/2+1)
}

func (l *lanes) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// empty waits until no lane is left, and is false where ctx ends before that.
func (l *lanes) empty(ctx context.Context) bool {
	for {
		l.mu.Lock()
		left, changed := len(l.byKey), l.changed
		l.mu.Unlock()
		if left == 0 {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// open says whether a lane that becomes ready is served at once.
func (l *lanes) open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gateTries == 0
}

// park takes the ready lanes out whose first entry is marked though it is surely not stored, and gives them to the caller.
func (l *lanes) park() (parked []*lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = slices.DeleteFunc(l.ready, func(one *lane) bool {
		if one.sure() {
			parked = append(parked, one)
		}
		return one.sure()
	})
	return parked
}

// unpark makes lanes ready again.
func (l *lanes) unpark(parked []*lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = append(l.ready, parked...)
	l.wake()
}

// sure says that the first entry is surely not stored, and the disk does not know it. One that is stored has a time of that.
func (one *lane) sure() bool { return one.marked && one.uncertainSince.IsZero() }

// allSure gives all lanes that are. No worker may run.
func (l *lanes) allSure() (all []*lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.byKey {
		if one.sure() {
			all = append(all, one)
		}
	}
	return all
}

// laneHeap has the lane that is due first in front.
type laneHeap []*lane

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h laneHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *laneHeap) Push(x any) {
	*h = append(*h, x.(*lane))
}

// Pop is for container/heap.
func (h *laneHeap) Pop() any {
	last := len(*h) - 1
	one := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return one
}
