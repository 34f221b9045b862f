package powercut

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// sectorBytes is the unit that a device writes whole or not at all.
	sectorBytes = 512
	// blockBytes is the unit that the cache holds; file systems mostly write whole ones.
	blockBytes   = 4096
	blockSectors = blockBytes / sectorBytes
	allSectors   = 1<<blockSectors - 1
)

// Outcome is what a cut does to the sectors that were written and not flushed.
type Outcome int

// The outcomes.
const (
	KeepNone Outcome = iota
	KeepAll
	KeepSome // a random subset of the 4 KiB blocks
	KeepTorn // a random subset, of which many are new in some of their 512-byte sectors only; on xfs KeepSome
	outcomes
)

// RandomOutcome chooses one.
func RandomOutcome(random *rand.Rand) Outcome { return Outcome(random.IntN(int(outcomes))) }

func (o Outcome) String() string {
	return [...]string{"none", "all", "some", "torn"}[o]
}

// cache is the content of a disk: a durable file, and what was written since the last flush.
type cache struct {
	bytes int64

	mu      sync.Mutex
	thawed  sync.Cond // frozen has become false
	durable *os.File
	blocks  map[int64]*block // by number
	flushes uint64
	// frozen holds all writes and flushes back: the power is off and nothing can be answered.
	frozen bool
	// armed is closed, and the power gone, when the next flush arrives; nil if none is waited for.
	armed chan struct{}
	// dead means that the power was cut: writes last until the restore and flushes do nothing.
	dead bool
}

// block is a block of which the sectors in the mask are newer than the durable file.
type block struct {
	sectors uint8
	data    [blockBytes]byte
}

func newCache(durable *os.File, bytes int64) *cache {
	c := &cache{bytes: bytes, durable: durable, blocks: make(map[int64]*block)}
	c.thawed.L = &c.mu
	return c
}

// read fills dest from offset, which must lie within the disk. Both may be unaligned.
func (c *cache) read(dest []byte, offset int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The durable file is as large as the disk, so this reads it whole.
	if _, err := c.durable.ReadAt(dest, offset); err != nil {
		return fmt.Errorf("read %d bytes at %d of the disk: %w", len(dest), offset, err)
	}
	end := offset + int64(len(dest))
	for at := offset; at < end; {
		number, within := at/blockBytes, at%blockBytes
		until := min((number+1)*blockBytes, end)
		if b := c.blocks[number]; b != nil {
			for s := within / sectorBytes; s*sectorBytes < until-number*blockBytes; s++ {
				if b.sectors&(1<<s) == 0 {
					continue
				}
				from, to := max(at, number*blockBytes+s*sectorBytes), min(until, number*blockBytes+(s+1)*sectorBytes)
				copy(dest[from-offset:to-offset], b.data[from-number*blockBytes:])
			}
		}
		at = until
	}
	return nil
}

// write keeps data in the cache. A loop device writes whole sectors; anything else is an error.
func (c *cache) write(data []byte, offset int64) error {
	if offset%sectorBytes != 0 || len(data)%sectorBytes != 0 || offset < 0 || offset+int64(len(data)) > c.bytes {
		return fmt.Errorf("write %d bytes at %d: not whole sectors of a disk of %d bytes", len(data), offset, c.bytes)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.frozen {
		c.thawed.Wait()
	}
	for len(data) > 0 {
		number, within := offset/blockBytes, offset%blockBytes
		b := c.blocks[number]
		if b == nil {
			b = new(block)
			c.blocks[number] = b
		}
		n := copy(b.data[within:], data)
		for s := within / sectorBytes; s*sectorBytes < within+int64(n); s++ {
			b.sectors |= 1 << s
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

// flush makes every write durable that has completed.
func (c *cache) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.armed != nil {
		close(c.armed)
		c.armed, c.frozen = nil, true
	}
	for c.frozen {
		c.thawed.Wait()
	}
	c.flushes++
	if c.dead {
		return nil
	}
	if err := c.store(c.blocks); err != nil {
		return err
	}
	clear(c.blocks)
	return nil
}

// store writes blocks to the durable file, neighbours together.
func (c *cache) store(blocks map[int64]*block) error {
	var run []byte
	var start int64
	emit := func() error {
		if len(run) == 0 {
			return nil
		}
		_, err := c.durable.WriteAt(run, start)
		run = run[:0]
		if err != nil {
			return fmt.Errorf("write the durable file: %w", err)
		}
		return nil
	}
	for _, number := range slices.Sorted(maps.Keys(blocks)) {
		b := blocks[number]
		for s := range int64(blockSectors) {
			if b.sectors&(1<<s) == 0 {
				continue
			}
			at := number*blockBytes + s*sectorBytes
			if at != start+int64(len(run)) {
				if err := emit(); err != nil {
					return err
				}
			}
			if len(run) == 0 {
				start = at
			}
			run = append(run, b.data[s*sectorBytes:(s+1)*sectorBytes]...)
		}
	}
	return emit()
}

// Cut is what a cut of the power did to a disk.
type Cut struct {
	Outcome Outcome
	Flushes uint64 // before it, since the disk was made
	Cached  int    // blocks that were not flushed
	Kept    int    // of which so many survived, whole or in part
}

func (c Cut) String() string {
	return fmt.Sprintf("kept %s: %d of %d unflushed blocks, after %d flushes", c.Outcome, c.Kept, c.Cached, c.Flushes)
}

// atFlush waits until a flush arrives, and leaves it and all that follows unanswered until release: the cut that
// comes next finds everything that the flush was meant for. It gives up when the limit is over.
func (c *cache) atFlush(limit time.Duration) {
	c.mu.Lock()
	arrived := make(chan struct{})
	c.armed = arrived
	c.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-arrived:
	case <-timer.C:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.armed = nil
	}
}

// cut takes the power away, and holds writes and flushes back until release. What survives is in the
// durable file when it returns; the cache continues to serve all that was written until restore, so
// that the file system above can be unmounted.
func (c *cache) cut(random *rand.Rand, outcome Outcome) (Cut, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := choose(random, outcome, c.blocks)
	c.frozen, c.dead = true, true
	return Cut{Outcome: outcome, Flushes: c.flushes, Cached: len(c.blocks), Kept: len(kept)}, c.store(kept)
}

// choose returns what of the blocks survives.
func choose(random *rand.Rand, outcome Outcome, blocks map[int64]*block) map[int64]*block {
	switch outcome {
	case KeepNone:
		return nil
	case KeepAll:
		return maps.Clone(blocks)
	}
	// Sometimes nearly all or nearly nothing. A device writes runs of blocks at a time, so a choice
	// mostly holds for the neighbour, too.
	share := []float64{0.1, 0.5, 0.9}[random.IntN(3)]
	var last int64 = -2
	kept := make(map[int64]*block)
	keep := false
	for _, number := range slices.Sorted(maps.Keys(blocks)) {
		if number != last+1 || random.IntN(4) == 0 {
			keep = random.Float64() < share
		}
		last = number
		b := blocks[number]
		if outcome == KeepTorn && random.IntN(2) == 0 {
			torn := *b
			torn.sectors &= uint8(random.IntN(allSectors + 1))
			b = &torn
		} else if !keep {
			continue
		}
		if b.sectors != 0 {
			kept[number] = b
		}
	}
	return kept
}

// release lets what the cut held back continue; it no longer matters to anybody.
func (c *cache) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = false
	c.thawed.Broadcast()
}

// restore turns the power on: the disk holds what survived the cut.
func (c *cache) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.blocks)
	c.dead = false
}
