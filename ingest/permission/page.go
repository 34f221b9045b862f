package permission

import (
	"iter"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// tableMin is the number of uids from which a page has a table. With fewer, a linear scan is faster.
const tableMin = 16

// page is an immutable set of uids in two pieces of memory without pointers, so the garbage collector has nothing to
// follow, however many uids there are.
type page struct {
	packed string   // each uid after a byte with its length less one
	table  []uint32 // open addressing by hash; 1 + the offset of the uid's length in packed
	count  int
}

// hash hashes a uid. It must never change, since other processes read pages divided by it.
func hash(uid string) uint64 { return xxhash.Sum64String(uid) }

// newPage makes a page of distinct uids, which it sorts.
func newPage(uids []string) *page {
	slices.Sort(uids)
	size := 0
	for _, uid := range uids {
		size += packedSize(uid)
	}
	packed := make([]byte, 0, size)
	p := &page{count: len(uids)}
	if len(uids) >= tableMin {
		p.table = make([]uint32, 1<<bits.Len(uint(len(uids)*4/3))) // at most three quarters full
	}
	for _, uid := range uids {
		if p.table != nil {
			i := hash(uid) & uint64(len(p.table)-1)
			for p.table[i] != 0 {
				i = (i + 1) & uint64(len(p.table)-1)
			}
			p.table[i] = uint32(len(packed)) + 1
		}
		packed = append(packed, byte(len(uid)-1))
		packed = append(packed, uid...)
	}
	p.packed = string(packed)
	return p
}

func packedSize(uid string) int { return 1 + len(uid) }

func (p *page) has(uid string) bool {
	if p.table == nil {
		for at := 0; at < len(p.packed); {
			one := p.at(at)
			if one == uid {
				return true
			}
			at += packedSize(one)
		}
		return false
	}
	mask := uint64(len(p.table) - 1)
	for i := hash(uid) & mask; p.table[i] != 0; i = (i + 1) & mask {
		if p.at(int(p.table[i])-1) == uid {
			return true
		}
	}
	return false
}

func (p *page) at(offset int) string {
	return p.packed[offset+1 : offset+2+int(p.packed[offset])]
}

// all iterates over the uids in order.
func (p *page) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		for at := 0; at < len(p.packed); {
			uid := p.at(at)
			if !yield(uid) {
				return
			}
			at += packedSize(uid)
		}
	}
}

// bytes returns the memory that the page takes.
func (p *page) bytes() int { return len(p.packed) + 4*len(p.table) + 48 }
