package queue

import (
	"cmp"
	"slices"
)

// itemsChunk is how many items a chunk has at most when it is filled at its end.
const itemsChunk = 512

// items are sorted by number. Chunks keep a queue of a million from being copied when it grows.
type items struct {
	chunks [][]item
	n      int
}

func byNumber(i item, number uint64) int { return cmp.Compare(i.number, number) }

func (s *items) first() *item { return &s.chunks[0][0] }

// put adds an item, or takes the place of the one with its number.
func (s *items) put(i item) (old item, replaced bool) {
	last := len(s.chunks) - 1
	if last < 0 || i.number > s.chunks[last][len(s.chunks[last])-1].number {
		if last < 0 || len(s.chunks[last]) >= itemsChunk {
			s.chunks = append(s.chunks, nil)
			last++
		}
		s.chunks[last] = append(s.chunks[last], i)
		s.n++
		return item{}, false
	}
	c := s.chunk(i.number)
	at, found := slices.BinarySearchFunc(s.chunks[c], i.number, byNumber)
	if found {
		old, s.chunks[c][at] = s.chunks[c][at], i
		return old, true
	}
	s.chunks[c] = slices.Insert(s.chunks[c], at, i)
	s.n++
	return item{}, false
}

// chunk is the first chunk that does not end before a number; len(s.chunks) if all do.
func (s *items) chunk(number uint64) int {
	c, _ := slices.BinarySearchFunc(s.chunks, number, func(chunk []item, number uint64) int {
		return cmp.Compare(chunk[len(chunk)-1].number, number)
	})
	return c
}

// find returns the item with a number; nil if there is none.
func (s *items) find(number uint64) *item {
	c := s.chunk(number)
	if c == len(s.chunks) {
		return nil
	}
	if at, found := slices.BinarySearchFunc(s.chunks[c], number, byNumber); found {
		return &s.chunks[c][at]
	}
	return nil
}

// pop removes the first item.
func (s *items) pop() {
	s.n--
	if s.chunks[0] = s.chunks[0][1:]; len(s.chunks[0]) == 0 {
		s.chunks[0] = nil
		if s.chunks = s.chunks[1:]; s.n == 0 {
			s.chunks = nil
		}
	}
}

// remove removes an item.
func (s *items) remove(number uint64) (item, bool) {
	c := s.chunk(number)
	if c == len(s.chunks) {
		return item{}, false
	}
	at, found := slices.BinarySearchFunc(s.chunks[c], number, byNumber)
	if !found {
		return item{}, false
	}
	old := s.chunks[c][at]
	if s.chunks[c] = slices.Delete(s.chunks[c], at, at+1); len(s.chunks[c]) == 0 {
		s.chunks = slices.Delete(s.chunks, c, c+1)
	}
	s.n--
	return old, true
}

// all calls f with each item from a number on until it returns false.
func (s *items) all(from uint64, f func(*item) bool) {
	for c := s.chunk(from); c < len(s.chunks); c++ {
		for at := range s.chunks[c] {
			if one := &s.chunks[c][at]; one.number >= from && !f(one) {
				return
			}
		}
	}
}
