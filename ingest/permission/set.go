package permission

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
)

// Limits of a list.
const (
	// MembersMax is the most uids that a list may hold.
	MembersMax = 1_000_000
	// inlineBytesMax is the largest list that is stored in the channel's own record; pageBytesMax bounds each page of a larger
	// list.
	inlineBytesMax = 8 << 10
	pageBytesMax   = 64 << 10
	// pageBytesHard bounds a page that cannot be divided because its uids have the same hash, which happens only on purpose.
	pageBytesHard = 256 << 10
)

// Errors of an edit.
var (
	// ErrTooMany is returned if a list would hold more than MembersMax uids.
	ErrTooMany = errors.New("the list would hold more than 1000000 uids")
	// ErrDamaged is returned if a list cannot be read and the edit does not replace it.
	ErrDamaged = errors.New("the list is damaged: a part of it is missing; replace the whole list")

	errHash = errors.New("too many of the uids have the same hash")
)

// Set is an immutable list of uids. It is divided by their hash into leaves, each with a page; a typical list has one
// leaf. A nil set is empty.
type Set struct {
	leaves []leaf
	count  int
}

// leaf holds the uids whose hash has an upper half of at least from, and less than the next leaf's from.
type leaf struct {
	from uint32
	id   uint64 // of the stored page; 0: it has no key of its own
	page *page  // nil if it is missing
}

// Len returns the number of uids.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.count
}

// Has reports whether a uid is in the set.
func (s *Set) Has(uid string) bool {
	if s == nil {
		return false
	}
	p := s.leaves[0].page
	if len(s.leaves) > 1 {
		p = s.leaves[s.find(uid)].page
	}
	return p != nil && p.has(uid)
}

// All iterates over the uids, in no particular order.
func (s *Set) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		if s == nil {
			return
		}
		for _, l := range s.leaves {
			if l.page == nil {
				continue
			}
			for uid := range l.page.all() {
				if !yield(uid) {
					return
				}
			}
		}
	}
}

// find returns the index of the leaf that a uid belongs to.
func (s *Set) find(uid string) int {
	at := upper(uid)
	return sort.Search(len(s.leaves), func(i int) bool { return s.leaves[i].from > at }) - 1
}

func (s *Set) isDamaged() bool {
	return s != nil && slices.ContainsFunc(s.leaves, func(l leaf) bool { return l.page == nil })
}

// inline reports whether the set is stored in the channel's own record.
func (s *Set) inline() bool {
	return s == nil || len(s.leaves) == 1 && s.leaves[0].page != nil && len(s.leaves[0].page.packed) <= inlineBytesMax
}

// bytes returns the memory that the set takes.
func (s *Set) bytes() int {
	if s == nil {
		return 0
	}
	n := 32 + 24*len(s.leaves)
	for _, l := range s.leaves {
		if l.page != nil {
			n += l.page.bytes()
		}
	}
	return n
}

// edit returns the set after an edit, or s itself if nothing changes. Changed leaves have no id; the others are shared
// with s.
func (s *Set) edit(e ListEdit) (*Set, error) {
	old := s
	if e.Clear {
		s = nil
	}
	if len(e.Add) == 0 && len(e.Remove) == 0 {
		return s, nil
	}
	if s.isDamaged() {
		return nil, ErrDamaged
	}
	if s == nil {
		s = &Set{leaves: []leaf{{page: newPage(nil)}}}
	}
	leaves, err := s.merge(e)
	if err != nil {
		return nil, err
	}
	next := &Set{leaves: tidy(leaves)}
	for _, l := range next.leaves {
		next.count += l.page.count
	}
	switch {
	case next.count == 0:
		return nil, nil //nolint:nilnil // an empty set is nil
	case next.count > MembersMax:
		return nil, ErrTooMany
	case next.count == old.Len() && next.within(old):
		return old, nil
	}
	return next, nil
}

// within reports whether every uid of a changed leaf is in other.
func (s *Set) within(other *Set) bool {
	for _, l := range s.leaves {
		if l.id != 0 {
			continue
		}
		for uid := range l.page.all() {
			if !other.Has(uid) {
				return false
			}
		}
	}
	return true
}

// merge applies the edit to the leaves that its uids belong to.
func (s *Set) merge(e ListEdit) ([]leaf, error) {
	type change struct{ add, remove map[string]struct{} }
	changes := make(map[int]*change)
	at := func(uid string) *change {
		i := s.find(uid)
		if changes[i] == nil {
			changes[i] = &change{add: map[string]struct{}{}, remove: map[string]struct{}{}}
		}
		return changes[i]
	}
	for _, uid := range e.Remove {
		at(uid).remove[uid] = struct{}{}
	}
	for _, uid := range e.Add {
		at(uid).add[uid] = struct{}{}
	}
	leaves := make([]leaf, 0, len(s.leaves)+len(changes))
	for i, l := range s.leaves {
		c := changes[i]
		if c == nil {
			leaves = append(leaves, l)
			continue
		}
		uids := make([]string, 0, l.page.count+len(c.add))
		kept := 0
		for uid := range l.page.all() {
			if _, removed := c.remove[uid]; removed {
				continue
			}
			delete(c.add, uid)
			uids = append(uids, uid)
			kept++
		}
		for uid := range c.add {
			uids = append(uids, uid)
		}
		if kept == l.page.count && len(uids) == kept {
			leaves = append(leaves, l)
			continue
		}
		var err error
		if leaves, err = appendLeaves(leaves, l.from, uids); err != nil {
			return nil, err
		}
	}
	return leaves, nil
}

// appendLeaves appends as many leaves as the uids need. The first starts at from.
func appendLeaves(dst []leaf, from uint32, uids []string) ([]leaf, error) {
	size := 0
	for _, uid := range uids {
		size += packedSize(uid)
	}
	if size <= pageBytesMax {
		return append(dst, leaf{from: from, page: newPage(uids)}), nil
	}
	slices.SortFunc(uids, func(a, b string) int {
		return cmp.Compare(upper(a), upper(b))
	})
	middle := upper(uids[len(uids)/2])
	at := sort.Search(len(uids), func(i int) bool { return upper(uids[i]) >= middle })
	if at == 0 { // the lower half has a single hash: divide after it
		at = sort.Search(len(uids), func(i int) bool { return upper(uids[i]) > middle })
	}
	if at == len(uids) {
		if size > pageBytesHard {
			return nil, fmt.Errorf("%w: %d of them", errHash, len(uids))
		}
		return append(dst, leaf{from: from, page: newPage(uids)}), nil
	}
	dst, err := appendLeaves(dst, from, uids[:at])
	if err != nil {
		return nil, err
	}
	return appendLeaves(dst, upper(uids[at]), uids[at:])
}

// upper returns the half of the hash by which leaves are divided; the lower half finds a uid within its page.
func upper(uid string) uint32 { return uint32(hash(uid) >> 32) }

// tidy joins neighbouring leaves that have become small, so that the number of pages stays in proportion to the uids. A
// joined leaf takes the place of the one before it.
func tidy(leaves []leaf) []leaf {
	out := leaves[:1]
	for _, l := range leaves[1:] {
		last := &out[len(out)-1]
		if size := len(last.page.packed) + len(l.page.packed); size > pageBytesMax/2 && size > inlineBytesMax {
			out = append(out, l)
			continue
		}
		if last.page.count == 0 {
			*last = leaf{from: last.from, id: l.id, page: l.page}
			continue
		}
		if l.page.count == 0 {
			continue
		}
		uids := append(slices.Collect(last.page.all()), slices.Collect(l.page.all())...)
		*last = leaf{from: last.from, page: newPage(uids)}
	}
	return out
}
