package fold

// chunkLen is the number of elements in a chunk: long enough that the slice of
// chunks stays small, short enough that the last one wastes little.
const chunkLen = 4096

// chunkList is a list that grows at its end and shrinks at its front, in chunks
// that never move. An element is known by its position, which counts from the
// first that was ever appended.
type chunkList[T any] struct {
	chunks [][]T
	first  uint64 // position of the first element kept
	next   uint64 // position that the next append gets
}

func (l *chunkList[T]) len() int { return int(l.next - l.first) }

// at returns the element at a position in [first, next).
func (l *chunkList[T]) at(pos uint64) *T {
	return &l.chunks[pos/chunkLen-l.first/chunkLen][pos%chunkLen]
}

func (l *chunkList[T]) append(v T) uint64 {
	if l.len() == 0 || l.next%chunkLen == 0 {
		l.grow()
	}
	pos := l.next
	l.next++
	*l.at(pos) = v
	return pos
}

// grow makes room for the element at next. An empty list may still hold the
// chunk that next falls into.
func (l *chunkList[T]) grow() {
	if need := int(l.next/chunkLen-l.first/chunkLen) + 1; len(l.chunks) < need {
		l.chunks = append(l.chunks, make([]T, chunkLen))
	}
}

// dropFirst forgets the first element, and its chunk with the chunk's last.
func (l *chunkList[T]) dropFirst() {
	l.first++
	if l.first%chunkLen == 0 {
		l.chunks[0] = nil
		l.chunks = l.chunks[1:]
	}
}

// share returns a list of the same elements that later appends and drops on l do
// not touch. Full chunks are shared, so their elements must not be written again.
func (l *chunkList[T]) share() chunkList[T] {
	c := chunkList[T]{chunks: append([][]T(nil), l.chunks...), first: l.first, next: l.next}
	if l.next%chunkLen != 0 && len(c.chunks) > 0 {
		last := len(c.chunks) - 1
		c.chunks[last] = append([]T(nil), c.chunks[last]...)
	}
	return c
}

// copied returns a list with chunks of its own.
func (l *chunkList[T]) copied() chunkList[T] {
	c := chunkList[T]{chunks: make([][]T, len(l.chunks)), first: l.first, next: l.next}
	for i, chunk := range l.chunks {
		c.chunks[i] = append([]T(nil), chunk...)
	}
	return c
}
