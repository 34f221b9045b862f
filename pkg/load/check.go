package load

import (
	"fmt"
	"slices"
	"sync"

	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	// stripes of the checker's locks; a power of two.
	stripes = 64
	// idHorizonMilli is how far back, in the time of a partition's IDs, a repeated one is noticed: longer
	// than an answer can be under way. A power of two.
	idHorizonMilli = 1 << 17
	// unknownMax bounds the sends without an answer that are remembered.
	unknownMax = 10_000
	// violationsKept is how many are described; all are counted.
	violationsKept = 20
)

// checker holds all answers of a run against each other.
type checker struct {
	seen       []uint64 // of each channel: how many sequences from 1 on have been seen without a gap
	channels   [stripes]channelStripe
	partitions [message.PartitionsMax]struct {
		sync.Mutex
		*idWindow
	}

	mu         sync.Mutex
	violations uint64
	first      []string
	unknown    []send // sends without an answer
	unknowns   uint64
	unchecked  uint64 // IDs older than the horizon
}

type channelStripe struct {
	sync.Mutex
	// ahead holds the sequences of a channel that were seen before those in front of them. There are no
	// more ranges than sends under way or without an answer.
	ahead map[uint32][]seqRange
}

// seqRange is a range of sequences, both ends included.
type seqRange struct{ first, last uint64 }

func newChecker(channels uint32) *checker {
	c := &checker{seen: make([]uint64, channels)}
	for i := range c.channels {
		c.channels[i].ahead = make(map[uint32][]seqRange)
	}
	return c
}

func (c *checker) violate(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violations++
	if len(c.first) < violationsKept {
		c.first = append(c.first, fmt.Sprintf(format, args...))
	}
}

// lose remembers a send that got no answer.
func (c *checker) lose(m send) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknowns++
	if len(c.unknown) < unknownMax {
		c.unknown = append(c.unknown, m)
	}
}

// accept takes the first answer to a send.
func (c *checker) accept(m send, id message.ID, seq uint64) {
	if seq == 0 || !c.takeSeq(m.channel, seq) {
		c.violate("send %d, channel %d: message_seq %d is 0 or was given before", m.n, m.channel, seq)
	}
	if id <= 0 || !c.takeID(id) {
		c.violate("send %d, channel %d: message_id %d is 0 or was given before", m.n, m.channel, id)
	}
}

// takeSeq reports whether the sequence is new in its channel.
func (c *checker) takeSeq(channel uint32, seq uint64) bool {
	stripe := &c.channels[channel%stripes]
	stripe.Lock()
	defer stripe.Unlock()
	seen := c.seen[channel]
	if seq <= seen {
		return false
	}
	ahead := stripe.ahead[channel]
	if seq > seen+1 {
		ahead, added := insertSeq(ahead, seq)
		stripe.ahead[channel] = ahead
		return added
	}
	seen = seq
	if len(ahead) > 0 && ahead[0].first == seen+1 {
		seen = ahead[0].last
		if ahead = ahead[1:]; len(ahead) == 0 {
			delete(stripe.ahead, channel)
		} else {
			stripe.ahead[channel] = ahead
		}
	}
	c.seen[channel] = seen
	return true
}

// insertSeq adds a sequence to a sorted list of ranges that do not touch; added is false if it
// is in one of them.
func insertSeq(ranges []seqRange, seq uint64) (_ []seqRange, added bool) {
	i, _ := slices.BinarySearchFunc(ranges, seq, func(r seqRange, seq uint64) int {
		if r.last < seq {
			return -1
		}
		return 1
	}) // the first range that ends at seq or after it
	if i < len(ranges) && ranges[i].first <= seq {
		return ranges, false
	}
	joinsLeft := i > 0 && ranges[i-1].last+1 == seq
	joinsRight := i < len(ranges) && ranges[i].first == seq+1
	switch {
	case joinsLeft && joinsRight:
		ranges[i-1].last = ranges[i].last
		return slices.Delete(ranges, i, i+1), true
	case joinsLeft:
		ranges[i-1].last = seq
	case joinsRight:
		ranges[i].first = seq
	default:
		ranges = slices.Insert(ranges, i, seqRange{seq, seq})
	}
	return ranges, true
}

// takeID reports whether an ID is new.
func (c *checker) takeID(id message.ID) bool {
	p := &c.partitions[id.Partition()]
	p.Lock()
	defer p.Unlock()
	if p.idWindow == nil {
		p.idWindow = newIDWindow()
	}
	fresh, known := p.take(id)
	if !known {
		c.mu.Lock()
		c.unchecked++
		c.mu.Unlock()
	}
	return fresh
}

// idWindow remembers which IDs of a partition were seen, as far back as the horizon: the first 32
// of each millisecond in a ring of words, the rest in a map. A partition that assigns more than 32,000
// IDs a second takes more memory.
type idWindow struct {
	newest int64 // millisecond
	ring   []uint32
	more   map[message.ID]struct{}
}

func newIDWindow() *idWindow {
	return &idWindow{ring: make([]uint32, idHorizonMilli), more: make(map[message.ID]struct{})}
}

// take reports whether an ID is fresh; known is false if it is too old to tell.
func (w *idWindow) take(id message.ID) (fresh, known bool) {
	at := id.UnixMilli()
	switch {
	case w.newest == 0 || at-w.newest >= idHorizonMilli:
		clear(w.ring)
		clear(w.more)
		w.newest = at
	case at > w.newest:
		for ms := w.newest + 1; ms <= at; ms++ {
			w.ring[ms%idHorizonMilli] = 0
		}
		if at/idHorizonMilli != w.newest/idHorizonMilli { // once in a while
			for old := range w.more {
				if at-old.UnixMilli() >= idHorizonMilli {
					delete(w.more, old)
				}
			}
		}
		w.newest = at
	case w.newest-at >= idHorizonMilli:
		return true, false
	}
	if counter := id.Counter(); counter < 32 {
		word, bit := &w.ring[at%idHorizonMilli], uint32(1)<<counter
		fresh = *word&bit == 0
		*word |= bit
		return fresh, true
	}
	_, seen := w.more[id]
	w.more[id] = struct{}{}
	return !seen, true
}

// finish looks for what is still out of order when all answers are in: a gap is right only where a
// send of the channel got no answer.
func (c *checker) finish() {
	unanswered := make(map[uint32]uint64)
	for _, m := range c.unknown {
		unanswered[m.channel]++
	}
	for i := range c.channels {
		for channel, ahead := range c.channels[i].ahead {
			var missing uint64
			seen := c.seen[channel]
			for _, r := range ahead {
				missing += r.first - seen - 1
				seen = r.last
			}
			if missing > unanswered[channel] && c.unknowns == uint64(len(c.unknown)) {
				c.violate("channel %d: %d sequences from %d to %d have no send, and %d sends were not answered",
					channel, missing, c.seen[channel]+1, seen, unanswered[channel])
			}
		}
	}
}
