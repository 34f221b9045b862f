package clickhouse

import (
	"fmt"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// values holds the rows of a block in one column.
type values interface {
	// add appends the row of a message.
	add(s *message.Stored)
	// hand passes rows to the driver, in order.
	hand(rows []int32, to appender, p *picked) error
	// reset removes all rows. It keeps the memory and releases the messages.
	reset()
}

// newValues returns the column of a field.
func newValues(f message.Field) values {
	switch f.Column {
	case "UInt8":
		return &numbers[uint8]{get: f.Number, into: func(p *picked) *[]uint8 { return &p.uint8s }}
	case "UInt16":
		return &numbers[uint16]{get: f.Number, into: func(p *picked) *[]uint16 { return &p.uint16s }}
	case "UInt32":
		return &numbers[uint32]{get: f.Number, into: func(p *picked) *[]uint32 { return &p.uint32s }}
	case "UInt64":
		return &numbers[uint64]{get: f.Number, into: func(p *picked) *[]uint64 { return &p.uint64s }}
	case "Int64", "DateTime64(3, 'UTC')": // the driver accepts int64s in the unit of the column
		return &numbers[int64]{get: f.Number, into: func(p *picked) *[]int64 { return &p.int64s }}
	case "String":
		return &texts{get: f.Text}
	case "Array(String)":
		return &lists{get: f.Texts}
	default:
		panic(fmt.Sprintf("clickhouse: field %s: column type %s is not supported", f.Name, f.Column))
	}
}

type numbers[T uint8 | uint16 | uint32 | uint64 | int64] struct {
	get  func(s *message.Stored) uint64
	into func(p *picked) *[]T
	rows []T
}

func (c *numbers[T]) add(s *message.Stored) { c.rows = append(c.rows, T(c.get(s))) }

func (c *numbers[T]) hand(rows []int32, to appender, p *picked) error {
	return to.Append(pick(c.into(p), c.rows, rows))
}

func (c *numbers[T]) reset() { c.rows = c.rows[:0] }

type texts struct {
	get  func(s *message.Stored) string
	rows []string
}

func (c *texts) add(s *message.Stored) { c.rows = append(c.rows, c.get(s)) }

func (c *texts) hand(rows []int32, to appender, p *picked) error {
	return to.Append(pick(&p.strings, c.rows, rows))
}

func (c *texts) reset() {
	clear(c.rows)
	c.rows = c.rows[:0]
}

// lists holds a list of texts per row: those of row i are all[ends[i-1]:ends[i]].
type lists struct {
	get  func(s *message.Stored) []string
	all  []string
	ends []int
}

func (c *lists) add(s *message.Stored) {
	c.all = append(c.all, c.get(s)...)
	c.ends = append(c.ends, len(c.all))
}

// hand appends row by row, because the driver's columnar path for arrays allocates for each row. Nearly all rows are
// empty, and they share one boxed value.
func (c *lists) hand(rows []int32, to appender, _ *picked) error {
	var none any = []string{}
	for _, row := range rows {
		value := none
		if list := c.row(int(row)); len(list) > 0 {
			value = list
		}
		if err := to.AppendRow(value); err != nil {
			return err
		}
	}
	return nil
}

func (c *lists) row(i int) []string {
	start := 0
	if i > 0 {
		start = c.ends[i-1]
	}
	return c.all[start:c.ends[i]]
}

func (c *lists) reset() {
	clear(c.all)
	c.all, c.ends = c.all[:0], c.ends[:0]
}
