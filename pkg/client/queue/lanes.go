package queue

import (
	"container/heap"
	"time"
)

// lane is a channel that has sends waiting. It is ready, doubtful or waiting, or a worker has it (busy). One with no items is not kept.
type lane struct {
	items
	key  laneKey
	busy bool

	at       time.Time // of the next try, while it waits
	failedAt time.Time
	tries    int    // of its first send alone, in a row
	groupMax int    // its next request has no more sends than this; 0: no such bound
	repeat   uint64 // the number of a doubtful send that may be sent again all the same
}

// lanes is what memory has of the queue: a fold of the journal's records, and which lane is next. All of it is under Queue.mu.
type lanes struct {
	byKey    map[laneKey]*lane
	ready    []*lane // first in, first out
	doubtful []*lane // as ready; a try of the first send may have been stored
	waiting  laneHeap
	loaded   bool // all of the journal has been read; before that no lane is ready
	changed  chan struct{}

	dead    items
	entries int
	bytes   int64            // of entries and dead letters
	live    map[uint32]int64 // of those with their record in a segment
}

func newLanes() lanes {
	return lanes{byKey: make(map[laneKey]*lane), changed: make(chan struct{}), live: make(map[uint32]int64)}
}

// hold accounts for the record of an entry or a dead letter, and release for one that does not count any more.
func (l *lanes) hold(i item) {
	l.bytes += i.bytes()
	l.live[i.at.Segment] += i.bytes()
}

func (l *lanes) release(i item) {
	l.bytes -= i.bytes()
	if l.live[i.at.Segment] -= i.bytes(); l.live[i.at.Segment] == 0 {
		delete(l.live, i.at.Segment)
	}
}

// put takes in an entry.
func (l *lanes) put(key laneKey, i item) {
	one := l.byKey[key]
	if one == nil {
		one = &lane{key: key}
		l.byKey[key] = one
	}
	old, replaced := one.put(i)
	if l.hold(i); replaced {
		l.release(old)
	} else {
		l.entries++
	}
	if one.n == 1 && !replaced {
		l.place(one)
	}
}

// mark notes that tries of the entries from first to last begin, or that none of them is stored. The first try counts.
func (l *lanes) mark(key laneKey, first, last uint64, since uint32) {
	one := l.byKey[key]
	if one == nil {
		return
	}
	one.all(first, func(i *item) bool {
		if i.number <= last && (since == 0 || i.since == 0) {
			i.since = since
		}
		return i.number < last
	})
}

// gone removes the entries of a lane up to one.
func (l *lanes) gone(key laneKey, last uint64) {
	one := l.byKey[key]
	for one != nil && one.n > 0 && one.first().number <= last {
		l.release(*one.first())
		l.entries--
		one.pop()
	}
	l.dropEmpty(one)
}

// die makes a dead letter, of an entry if it is still there.
func (l *lanes) die(key laneKey, i item) {
	if one := l.byKey[key]; one != nil {
		if old, found := one.remove(i.number); found {
			l.release(old)
			l.entries--
		}
		l.dropEmpty(one)
	}
	old, replaced := l.dead.put(i)
	if l.hold(i); replaced {
		l.release(old)
	}
}

// drop removes a dead letter.
func (l *lanes) drop(number uint64) {
	if old, found := l.dead.remove(number); found {
		l.release(old)
	}
}

// doubtAll notes that any try may have been stored since a time. It is for damage: what is lost may have been the marks.
func (l *lanes) doubtAll(since uint32) {
	for _, one := range l.byKey {
		one.all(0, func(i *item) bool {
			if i.since == 0 {
				i.since = since
			}
			return true
		})
	}
}

func (l *lanes) dropEmpty(one *lane) {
	if one == nil || one.n > 0 || one.busy {
		return
	}
	delete(l.byKey, one.key)
	l.wake()
}

// load makes all lanes ready, once the journal has been read.
func (l *lanes) load() {
	l.loaded = true
	for _, one := range l.byKey {
		l.place(one)
	}
}

// place puts a lane after the others, if no worker has it.
func (l *lanes) place(one *lane) {
	switch {
	case !l.loaded || one.busy:
		return
	case one.n == 0:
		l.dropEmpty(one)
		return
	case one.first().since != 0 && one.first().number != one.repeat:
		l.doubtful = append(l.doubtful, one)
	default:
		l.ready = append(l.ready, one)
	}
	l.wake()
}

// later has a lane wait.
func (l *lanes) later(one *lane, wait time.Duration) {
	if one.n == 0 {
		l.dropEmpty(one)
		return
	}
	one.failedAt = time.Now()
	one.at = one.failedAt.Add(wait)
	heap.Push(&l.waiting, one)
	l.wake()
}

// due makes the lanes ready that have waited long enough.
func (l *lanes) due(now time.Time) {
	for len(l.waiting) > 0 && !l.waiting[0].at.After(now) {
		l.place(heap.Pop(&l.waiting).(*lane)) //nolint:forcetypeassert // the heap holds nothing else
	}
}

// hurry makes the lanes ready that have failed since a time.
func (l *lanes) hurry(since time.Time) {
	all := l.waiting
	l.waiting = nil
	for _, one := range all {
		if one.failedAt.Before(since) {
			heap.Push(&l.waiting, one)
		} else {
			l.place(one)
		}
	}
}

// grab takes the first lane of a list.
func grab(list *[]*lane) *lane {
	one := (*list)[0]
	(*list)[0] = nil
	if *list = (*list)[1:]; len(*list) == 0 {
		*list = nil
	}
	one.busy = true
	return one
}

func (l *lanes) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
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
