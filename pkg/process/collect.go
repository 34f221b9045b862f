package process

import (
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// spareBytesMax is how much may be allocated from one collection to the next, whatever is in use.
	spareBytesMax = 256 << 20
	// spareShare bounds it on small machines and in small containers: a 16th of their memory.
	spareShare = 16
	// heapBytesMax bounds how large the heap becomes between two collections while what is in use is less. What is in use includes
	// what nats-server's pools keep for later.
	heapBytesMax = 320 << 20
	// percentMin: near the bound, half of what is in use may still be allocated.
	percentMin = 50
	// percentDefault is Go's own: as much again as is in use.
	percentDefault = 100
	// liveMin: with less in use, Go reckons the percentage from this.
	liveMin = 4 << 20
)

// spareCollections makes the garbage collector run less often while little memory is in use. Go waits until as much again was
// allocated, which with 60 MiB in use and 130 MB/s allocated at 8,000 sends a second is every half second, and for the 15
// to 25 ms of each collection requests wait for a processor, too many to be left out of the 99th percentile. If
// GOGC is set, nothing is changed; GOMEMLIMIT still bounds the heap.
func spareCollections(log *slog.Logger) {
	if os.Getenv("GOGC") != "" {
		return
	}
	memory, err := memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)()
	if err != nil {
		log.Warn("cannot determine available memory; leaving GOGC at its default", "error", err)
		return
	}
	(&collector{spare: min(spareBytesMax, memory/spareShare), percent: percentDefault}).follow()
}

// collector sets GOGC again after each collection, since the memory in use changes.
type collector struct {
	spare   uint64 // bytes
	percent int    // that is in force
}

// follow adjusts now, and again when the next collection has found that nothing refers to the mark.
func (c *collector) follow() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	c.adjust(live[0].Value.Uint64(), debug.SetGCPercent)
	mark := new([64]byte) // too large to share its memory with others
	runtime.AddCleanup(mark, (*collector).follow, c)
}

// adjust sets the percentage for what is in use, unless it is nearly right: setting it stops the process for a moment.
func (c *collector) adjust(live uint64, set func(int) int) {
	percent := percentDefault // a bulk load at full speed has more in use, and would be 5% slower with less
	if live < heapBytesMax {
		percent = max(percentMin, int(min(c.spare, heapBytesMax-live)*100/max(live, liveMin)))
	}
	if percent*10 > c.percent*9 && percent*10 < c.percent*11 {
		return
	}
	c.percent = percent
	set(percent)
}
