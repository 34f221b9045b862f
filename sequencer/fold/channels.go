package fold

import (
	"bytes"
	"hash/maphash"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// channelTable holds the last message_seq of every channel of the partition.
//
// Names lie one after another in an arena of blocks that are never written
// again; an entry points into it. The index is an open-addressing hash table of
// entry positions, each beside 32 bits of its hash, so that a probe touches an
// entry only where it very likely matches. The hash has a new seed in each
// process against flooding; it decides where an entry is found, never what the
// fold answers.
type channelTable struct {
	entries chunkList[channelEntry]
	arena   nameArena
	index   []indexSlot
	seed    maphash.Seed
}

type channelEntry struct {
	name       nameRef
	messageSeq uint64
}

type indexSlot struct {
	tag   uint32 // high bits of the hash
	entry uint32 // position + 1; 0 is an empty slot
}

const (
	indexLenMin   = 1024
	indexLoadMax4 = 3 // quarters
)

func newChannelTable() channelTable {
	return channelTable{index: make([]indexSlot, indexLenMin), seed: maphash.MakeSeed()}
}

func (t *channelTable) len() int { return t.entries.len() }

// next returns the next message_seq of a channel, whose hash is given.
func (t *channelTable) next(hash uint64, channelType message.ChannelType, name []byte) uint64 {
	e := t.find(hash, channelType, name)
	e.messageSeq++
	return e.messageSeq
}

// find returns the channel's entry, created with message_seq 0 if there is none.
func (t *channelTable) find(hash uint64, channelType message.ChannelType, name []byte) *channelEntry {
	mask := uint64(len(t.index) - 1)
	tag := uint32(hash >> 32)
	slot := hash & mask
	for ; t.index[slot].entry != 0; slot = (slot + 1) & mask {
		if t.index[slot].tag != tag {
			continue
		}
		e := t.entries.at(uint64(t.index[slot].entry - 1))
		gotType, gotName := t.arena.get(e.name)
		if gotType == channelType && bytes.Equal(gotName, name) {
			return e
		}
	}
	pos := t.entries.append(channelEntry{name: t.arena.put(channelType, name)})
	t.index[slot] = indexSlot{tag: tag, entry: uint32(pos) + 1}
	if t.len()*4 > len(t.index)*indexLoadMax4 {
		t.reindex(len(t.index) * 2)
	}
	return t.entries.at(pos)
}

// likely is the entry (position + 1) in the slot where a hash's search begins; 0 if there is none, or only that of another.
func (t *channelTable) likely(hash uint64) uint32 {
	slot, tag := t.index[hash&uint64(len(t.index)-1)], uint32(hash>>32)
	if slot.tag != tag {
		return 0
	}
	return slot.entry
}

func (t *channelTable) hash(channelType message.ChannelType, name []byte) uint64 {
	return maphash.Bytes(t.seed, name) ^ uint64(channelType)*0x9E3779B97F4A7C15
}

func (t *channelTable) reindex(length int) {
	t.index = make([]indexSlot, length)
	mask := uint64(length - 1)
	for pos := range t.entries.next {
		channelType, name := t.arena.get(t.entries.at(pos).name)
		hash := t.hash(channelType, name)
		slot := hash & mask
		for t.index[slot].entry != 0 {
			slot = (slot + 1) & mask
		}
		t.index[slot] = indexSlot{tag: uint32(hash >> 32), entry: uint32(pos) + 1}
	}
}

// nameArena keeps channel names: a byte of type, then the name.
type nameArena struct {
	blocks [][]byte
}

// nameRef is where a name lies: block (24 bits) | offset (24) | length (16).
type nameRef uint64

const (
	arenaBlockBytes = 1 << 20
	nameBytesMax    = 1<<16 - 1
)

func (a *nameArena) put(channelType message.ChannelType, name []byte) nameRef {
	size := 1 + len(name)
	last := len(a.blocks) - 1
	if last < 0 || len(a.blocks[last])+size > arenaBlockBytes {
		a.blocks = append(a.blocks, make([]byte, 0, arenaBlockBytes))
		last++
	}
	offset := len(a.blocks[last])
	a.blocks[last] = append(append(a.blocks[last], byte(channelType)), name...)
	return nameRef(last)<<40 | nameRef(offset)<<16 | nameRef(len(name))
}

func (a *nameArena) get(ref nameRef) (message.ChannelType, []byte) {
	offset, length := int(ref>>16&(1<<24-1)), int(ref&nameBytesMax)
	b := a.blocks[ref>>40][offset : offset+1+length]
	return message.ChannelType(b[0]), b[1:]
}

// share returns an arena with the names put so far. Later puts append behind
// what it can see.
func (a *nameArena) share() nameArena {
	return nameArena{blocks: append([][]byte(nil), a.blocks...)}
}
