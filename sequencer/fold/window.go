package fold

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// window remembers the sends of the deduplication window, oldest first, and
// finds one by its key: channel, sender and client_msg_no.
//
// A key is kept as 128 bits of its SHA-256, which no sender can make collide
// with another's; the content as 64 bits of the SHA-256 of the encoded send,
// which a sender could only turn against its own message.
type window struct {
	entries chunkList[windowEntry]
	index   []windowSlot // open addressing with linear probing
	key     []byte       // scratch
}

type windowEntry struct {
	key        [2]uint64
	content    uint64
	id         message.ID
	messageSeq uint64
	ageMilli   int64 // what the window's clock stood at; see clock
}

// windowSlot is a place in the index. It repeats the low bits of the key, so that
// looking for a key, and moving slots, touch an entry only where it very likely is
// the one that is meant.
type windowSlot struct {
	hash uint32 // low bits of the key
	// pos has its top bit set where the slot is in use, and holds the low 31 bits of
	// the entry's position, which no two entries kept at one time share.
	pos uint32
}

const slotInUse = 1 << 31

func slotOf(key [2]uint64, pos uint64) windowSlot {
	return windowSlot{hash: uint32(key[0]), pos: uint32(pos) | slotInUse}
}

func newWindow() window { return window{index: make([]windowSlot, indexLenMin)} }

func (w *window) len() int { return w.entries.len() }

// keyOf hashes what makes a send the same as another. Each part but the last is
// preceded by its length, so that no two keys run together.
func (w *window) keyOf(v *message.SendView) [2]uint64 {
	b := w.key[:0]
	b = append(b, byte(v.ChannelType))
	b = binary.AppendUvarint(b, uint64(len(v.ChannelID)))
	b = append(b, v.ChannelID...)
	b = binary.AppendUvarint(b, uint64(len(v.FromUID)))
	b = append(b, v.FromUID...)
	b = append(b, v.ClientMsgNo...)
	w.key = b
	sum := sha256.Sum256(b)
	return [2]uint64{binary.LittleEndian.Uint64(sum[0:8]), binary.LittleEndian.Uint64(sum[8:16])}
}

func contentOf(encodedSend []byte) uint64 {
	sum := sha256.Sum256(encodedSend)
	return binary.LittleEndian.Uint64(sum[:8])
}

// slot is where the search for a key begins.
func (w *window) slot(key [2]uint64) uint32 { return uint32(key[0]) & uint32(len(w.index)-1) }

// find returns the entry of a key, nil if there is none.
func (w *window) find(key [2]uint64) *windowEntry {
	mask, hash := uint32(len(w.index)-1), uint32(key[0])
	for i := w.slot(key); w.index[i].pos != 0; i = (i + 1) & mask {
		if w.index[i].hash != hash {
			continue
		}
		if e := w.entryOf(w.index[i]); e.key == key {
			return e
		}
	}
	return nil
}

// add appends an entry. Its key must not be there.
func (w *window) add(e windowEntry) {
	pos := w.entries.append(e)
	w.insertIndex(slotOf(e.key, pos))
	if w.len()*4 > len(w.index)*indexLoadMax4 {
		w.reindex(len(w.index) * 2)
	}
}

// evict forgets the oldest entry.
func (w *window) evict() {
	w.deleteIndex(w.entries.first)
	w.entries.dropFirst()
}

// readOldest reads the slots of so many of the oldest entries, where evict will look for them; see lookAhead.
func (w *window) readOldest(n int) (read uint64) {
	for pos := w.entries.first; n > 0 && pos < w.entries.next; pos++ {
		read += uint64(w.index[w.slot(w.entries.at(pos).key)].pos)
		n--
	}
	return read
}

func (w *window) oldest() *windowEntry { return w.entries.at(w.entries.first) }

// entryOf turns a slot's 31 bits back into the position in [first, next).
func (w *window) entryOf(slot windowSlot) *windowEntry {
	behind := (slot.pos - uint32(w.entries.first)) & (slotInUse - 1)
	return w.entries.at(w.entries.first + uint64(behind))
}

func (w *window) insertIndex(slot windowSlot) {
	mask := uint32(len(w.index) - 1)
	i := slot.hash & mask
	for w.index[i].pos != 0 {
		i = (i + 1) & mask
	}
	w.index[i] = slot
}

// deleteIndex empties the slot of the entry at pos and moves back those after it
// that would no longer be found (Knuth, The Art of Computer Programming, 6.4,
// algorithm R).
func (w *window) deleteIndex(pos uint64) {
	mask, slot := uint32(len(w.index)-1), slotOf(w.entries.at(pos).key, pos)
	hole := slot.hash & mask
	for w.index[hole] != slot {
		hole = (hole + 1) & mask
	}
	for i := (hole + 1) & mask; w.index[i].pos != 0; i = (i + 1) & mask {
		if home := w.index[i].hash & mask; (i-home)&mask >= (i-hole)&mask {
			w.index[hole] = w.index[i]
			hole = i
		}
	}
	w.index[hole] = windowSlot{}
}

func (w *window) reindex(length int) {
	old := w.index
	w.index = make([]windowSlot, length)
	for _, slot := range old {
		if slot.pos != 0 {
			w.insertIndex(slot)
		}
	}
}
