package sim

import (
	"fmt"
	"hash/fnv"
	"io"
	"time"
)

// traceKept is the number of events that a failure shows.
const traceKept = 50

// trace keeps the last events of a run and a hash over all of them, by which two
// runs are known to be the same.
type trace struct {
	hash   uint64
	events int
	last   [traceKept]string
	out    io.Writer // gets every event, if set
	line   []byte
}

// add notes an event. The formatted line is hashed, so its arguments must not
// differ between replays: no pointers, no maps.
func (t *trace) add(at time.Duration, step int, format string, args ...any) {
	t.line = fmt.Appendf(t.line[:0], "%10.3fs %5d  ", at.Seconds(), step)
	t.line = fmt.Appendf(t.line, format, args...)
	sum := fnv.New64a()
	_, _ = sum.Write(t.line) // a hash takes everything
	t.hash = t.hash*0x100000001b3 ^ sum.Sum64()
	t.last[t.events%traceKept] = string(t.line)
	t.events++
	if t.out != nil {
		_, _ = fmt.Fprintf(t.out, "%s\n", t.line) // for reading only
	}
}

// tail gives the last events, oldest first.
func (t *trace) tail() []string {
	var lines []string
	for i := max(0, t.events-traceKept); i < t.events; i++ {
		lines = append(lines, t.last[i%traceKept])
	}
	return lines
}
