package clickhouse

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
)

// yieldRows is the number of rows after which preparing an insert yields the processor; it also yields after each column.
// Preparation takes some milliseconds without a pause, requests may be waiting for the processor if all roles share it, and
// no request waits for the insert.
const yieldRows = 256

// sorting orders rows by the table's key, (channel_id, channel_type, message_seq), so that the server receives a sorted
// block and need neither sort it nor move its columns. It uses what the server does not know: the rows of one channel are
// already in the order of their message_seq. So it compares only channels, of which a block has far fewer than rows.
type sorting struct {
	groups   map[channelKey]int32 // index in channels
	channels []channelRows
	groupOf  []int32 // index in channels, before they are sorted, of each row
	next     []int32 // output index of the next row of a channel
	order    []int32
}

type channelKey struct {
	id   string
	kind uint8
}

// channelRows is a channel of the block and its number of rows.
type channelRows struct {
	channelKey
	group int32
	rows  int32
}

// inOrder returns the rows [first, end) in the order of the table's key. The result is valid until the next call.
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

// reset releases the messages that the names alias.
func (s *sorting) reset() {
	clear(s.groups)
	clear(s.channels)
	s.channels, s.groupOf, s.next, s.order = s.channels[:0], s.groupOf[:0], s.next[:0], s.order[:0]
}

// picked holds the rows of a column in another order until the driver has copied them.
type picked struct {
	strings []string
	int64s  []int64
	uint64s []uint64
	uint32s []uint32
	uint16s []uint16
	uint8s  []uint8
}

// reset releases the strings.
func (p *picked) reset() {
	clear(p.strings[:cap(p.strings)])
}

// pick copies the given rows of a column.
func pick[T any](into *[]T, column []T, rows []int32) []T {
	out := slices.Grow((*into)[:0], len(rows))[:len(rows)]
	for i, row := range rows {
		out[i] = column[row]
	}
	*into = out
	return out
}
