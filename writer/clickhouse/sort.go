package clickhouse

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
)

// yieldRows: preparing an insert takes some milliseconds at a stretch, of a processor that requests wait for where all roles
// share it, and nobody waits for the insert. So it gives way after every so many rows, to whatever else can run, and after each
// column.
const yieldRows = 256

// sorting brings rows into the order of the table's key, (channel_id, channel_type, message_seq), so that the server finds a block
// in order and need neither sort it nor move its columns. It knows what the server does not: the rows of one channel come in the
// order of their message_seq. So only channels are compared, of which a block has far fewer than rows.
type sorting struct {
	groups   map[channelKey]int32 // place in channels
	channels []channelRows
	groupOf  []int32 // place in channels, as they came, of each row
	next     []int32 // where the next row of a channel goes
	order    []int32
}

type channelKey struct {
	id   string
	kind uint8
}

// channelRows is a channel of the block, and how many rows it has.
type channelRows struct {
	channelKey
	group int32
	rows  int32
}

// inOrder gives the rows [first, end) in the order of the table's key. The answer is good until the next call.
func (b *Block) inOrder(first, end int) []int32 {
	s := &b.sorting
	s.reset()
	if s.groups == nil {
		s.groups = make(map[channelKey]int32)
	}
	for i := first; i < end; i++ {
		if i%yieldRows == 0 {
			runtime.Gosched()
		}
		key := channelKey{b.channelID.rows[i], b.channelType.rows[i]}
		group, known := s.groups[key]
		if !known {
			group = int32(len(s.channels))
			s.groups[key] = group
			s.channels = append(s.channels, channelRows{channelKey: key, group: group})
		}
		s.channels[group].rows++
		s.groupOf = append(s.groupOf, group)
	}
	slices.SortFunc(s.channels, func(x, y channelRows) int {
		return cmp.Or(strings.Compare(x.id, y.id), cmp.Compare(x.kind, y.kind))
	})
	s.next = slices.Grow(s.next, len(s.channels))[:len(s.channels)]
	at := int32(0)
	for _, c := range s.channels {
		s.next[c.group] = at
		at += c.rows
	}
	s.order = slices.Grow(s.order, end-first)[:end-first]
	for i, group := range s.groupOf {
		s.order[s.next[group]] = int32(first + i)
		s.next[group]++
	}
	return s.order
}

// reset lets go of the messages that names are read from.
func (s *sorting) reset() {
	clear(s.groups)
	clear(s.channels)
	s.channels, s.groupOf, s.next, s.order = s.channels[:0], s.groupOf[:0], s.next[:0], s.order[:0]
}

// picked is where the rows of a column are put together in another order, for as long as it takes to hand them to the driver, which
// copies them.
type picked struct {
	strings []string
	int64s  []int64
	uint64s []uint64
	uint32s []uint32
	uint16s []uint16
	uint8s  []uint8
}

// reset lets go of strings.
func (p *picked) reset() {
	clear(p.strings[:cap(p.strings)])
}

// pick puts the rows of a column together.
func pick[T any](into *[]T, column []T, rows []int32) []T {
	out := slices.Grow((*into)[:0], len(rows))[:len(rows)]
	for i, row := range rows {
		out[i] = column[row]
	}
	*into = out
	return out
}
