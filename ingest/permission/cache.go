package permission

import (
	"sync"
	"sync/atomic"
)

const shards = 64

// cache holds every policy. Many goroutines read it without blocking each other; a single goroutine writes it, and locks a
// shard only for as long as it takes to set a pointer.
type cache struct {
	shards [shards]shard
	system atomic.Pointer[Set]
	// complete: the cache has held everything that the bucket held at some point in time.
	complete atomic.Bool

	// Written only by the writing goroutine.
	channels, members, bytes atomic.Int64
	held                     atomic.Pointer[extent]
}

// extent returns how much of the bucket is in the cache.
func (c *cache) extent() extent {
	if held := c.held.Load(); held != nil {
		return *held
	}
	return extent{}
}

// reached records that the channel record of this revision is in the cache.
func (c *cache) reached(revision uint64) {
	c.held.Store(&extent{Last: max(c.extent().Last, revision), Channels: c.channels.Load()})
}

type shard struct {
	mu       sync.RWMutex
	policies map[Channel]*Policy
	_        [32]byte // pads a shard to its own cache line
}

func newCache() *cache {
	c := &cache{}
	for i := range c.shards {
		c.shards[i].policies = make(map[Channel]*Policy)
	}
	return c
}

func (c *cache) shard(ch Channel) *shard {
	return &c.shards[(hash(ch.Name)+uint64(ch.Type))%shards]
}

// Policy implements View.
func (c *cache) Policy(ch Channel) *Policy {
	s := c.shard(ch)
	s.mu.RLock()
	p := s.policies[ch]
	s.mu.RUnlock()
	return p
}

// System implements View.
func (c *cache) System(uid string) bool { return c.system.Load().Has(uid) }

// put stores a policy, unless the cache has a newer one.
func (c *cache) put(ch Channel, p *Policy) {
	s := c.shard(ch)
	s.mu.Lock()
	old := s.policies[ch]
	newer := old == nil || old.revision < p.revision
	if newer {
		s.policies[ch] = p
	}
	s.mu.Unlock()
	if !newer {
		return
	}
	if ch == SystemAccounts() {
		c.system.Store(p.List(Subscribers))
	}
	if old == nil {
		c.channels.Add(1)
		c.bytes.Add(int64(len(ch.Name)))
	}
	c.members.Add(int64(p.members() - old.members()))
	c.bytes.Add(int64(p.bytes() - old.bytes()))
}

// remove deletes the policy of a channel.
func (c *cache) remove(ch Channel) {
	s := c.shard(ch)
	s.mu.Lock()
	old := s.policies[ch]
	delete(s.policies, ch)
	s.mu.Unlock()
	if ch == SystemAccounts() {
		c.system.Store(nil)
	}
	if old != nil {
		c.channels.Add(-1)
		c.members.Add(int64(-old.members()))
		c.bytes.Add(int64(-old.bytes() - len(ch.Name)))
	}
}

// bytes estimates the memory that a policy takes, including its entry in the map.
func (p *Policy) bytes() int {
	if p == nil {
		return 0
	}
	n := 96
	for l := range lists {
		n += p.lists[l].bytes()
	}
	return n
}

var _ View = (*cache)(nil)
