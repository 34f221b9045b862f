package writer

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// recordOverheadBytes is the memory of a record beyond its own bytes: about 200 for its columns, its digest and
	// its index entry, and what the allocator rounds up.
	recordOverheadBytes = 256
	// A batch keeps its slices for the next one. It frees them after so many batches in a row that used less than an
	// eighth of them.
	smallBatchesMax   = 64
	recordsKeptAlways = 8192
)

// batch is a contiguous run of messages of the message log, decoded into columns. Its records are encoded messages.
// Each side of a partition's pipeline has one batch and reuses it.
type batch struct {
	block   clickhouse.Block
	first   uint64   // partition_seq of the first record
	records [][]byte // encoded as in the log, indexed by partition_seq - first
	digests []uint64 // of the records
	bad     []badRecord
	samples tracing.Samples // of the records, by partition_seq

	due      time.Time // latest time to insert it
	closed   bool      // it accepts no more records
	memory   int64     // bytes that its records occupy
	reserved int64     // bytes taken from the budget
	small    int       // batches in a row that used less than an eighth of the slices
}

// badRecord is a record that cannot become a row.
type badRecord struct {
	seq    uint64
	reason string // of the dead letter, one of the reason constants
	err    error
	token  string // of the refused insert, if there was one
}

func (b *batch) empty() bool { return len(b.records) == 0 }

// span returns the range of the batch, which must not be empty.
func (b *batch) span() seqRange {
	return seqRange{First: b.first, Last: b.first + uint64(len(b.records)) - 1}
}

// add appends the record that follows the last one.
func (b *batch) add(seq uint64, encoded []byte) {
	if b.empty() {
		b.first = seq
	}
	b.memory += int64(len(encoded)) + recordOverheadBytes
	b.records = append(b.records, encoded)
	b.digests = append(b.digests, xxhash.Sum64(encoded))
	if err := b.block.Append(seq, encoded); err != nil {
		b.bad = append(b.bad, badRecord{seq: seq, reason: reasonUndecodable, err: err})
	}
}

func (b *batch) reset() {
	if kept := cap(b.records); kept > recordsKeptAlways && len(b.records) < kept/8 {
		b.small++
	} else {
		b.small = 0
	}
	if b.small > smallBatchesMax {
		*b = batch{reserved: b.reserved}
		return
	}
	b.block.Reset()
	clear(b.records)
	clear(b.bad)
	b.records, b.digests, b.bad = b.records[:0], b.digests[:0], b.bad[:0]
	b.samples = nil
	b.first, b.due, b.closed, b.memory = 0, time.Time{}, false, 0
}

// rows returns the indices in the block of a range's rows. Bad records have no row.
func (b *batch) rows(r seqRange) (first, end int) {
	at := func(seq uint64) int {
		return sort.Search(b.block.Rows(), func(i int) bool { return b.block.PartitionSeq(i) >= seq })
	}
	return at(r.First), at(r.Last + 1)
}

// badIn returns the bad records of a range.
func (b *batch) badIn(r seqRange) []badRecord {
	var in []badRecord
	for _, bad := range b.bad {
		if bad.seq >= r.First && bad.seq <= r.Last {
			in = append(in, bad)
		}
	}
	return in
}

func (b *batch) record(seq uint64) []byte { return b.records[seq-b.first] }

// digestAt returns the digest of one record.
func (b *batch) digestAt(seq uint64) uint64 { return b.digests[seq-b.first] }

// digest returns the digest of a range: the digest of its records' digests.
func (b *batch) digest(r seqRange) uint64 {
	var d xxhash.Digest
	d.Reset()
	var word [8]byte
	for _, one := range b.digests[r.First-b.first : r.Last-b.first+1] {
		binary.LittleEndian.PutUint64(word[:], one)
		_, _ = d.Write(word[:]) // never fails
	}
	return d.Sum64()
}

const (
	// memoryRecordsMin is the size up to which a piece is not cut for lack of memory. The server then has none at
	// all, and many small parts would only make it worse.
	memoryRecordsMin = 1000
	// memoryTriesLarger is the number of successful pieces after which the limit doubles.
	memoryTriesLarger = 16
)

// cut splits a refused piece of more than one record:
//
//   - If ClickHouse names the row that it refuses, into the records before it, that record alone, and those after it.
//     If ClickHouse named the wrong row, that one is inserted, at no loss.
//   - If the piece was refused for its size and spans months, at the end of the first month: the table is partitioned
//     by month, so this creates no extra parts.
//   - Otherwise in halves.
func (b *batch) cut(piece seqRange, refused *refusedError) []seqRange {
	first, end := b.rows(piece)
	if row := first + refused.row - 1; refused.row > 0 && row < end {
		return around(piece, b.block.PartitionSeq(row))
	}
	second := piece.First + piece.count()/2
	if refused.class == clickhouse.Oversize && first < end {
		month, next := monthOf(b.block.AcceptedAt(first)), first+1
		for next < end && monthOf(b.block.AcceptedAt(next)) == month { // the broker's clock may have stepped: no bisection
			next++
		}
		if next < end {
			second = b.block.PartitionSeq(next)
		}
	}
	return []seqRange{{First: piece.First, Last: second - 1}, {First: second, Last: piece.Last}}
}

// around splits a piece at one record.
func around(piece seqRange, seq uint64) []seqRange {
	var parts []seqRange
	if seq > piece.First {
		parts = append(parts, seqRange{First: piece.First, Last: seq - 1})
	}
	parts = append(parts, seqRange{First: seq, Last: seq})
	if seq < piece.Last {
		parts = append(parts, seqRange{First: seq + 1, Last: piece.Last})
	}
	return parts
}

func monthOf(t time.Time) int {
	year, month, _ := t.UTC().Date()
	return year*12 + int(month)
}

// memoryLimit keeps pieces at a size for which ClickHouse has had memory.
type memoryLimit struct {
	records uint64 // maximum of a piece; 0 if there is no limit
	taken   int    // pieces of that size inserted since it was set
}

// withinMemory splits off the head of a piece that fits the memory limit. It leaves a pending range whole, because its
// token stands for all of it; such a range is cut only when it is refused.
func (r *runner) withinMemory(piece seqRange) (head seqRange, tail *seqRange) {
	most := r.memory.records
	if most == 0 || piece.count() <= most || (r.position.Pending != nil && r.position.Pending.seqRange == piece) {
		return piece, nil
	}
	return seqRange{First: piece.First, Last: piece.First + most - 1}, &seqRange{First: piece.First + most, Last: piece.Last}
}

// mayCut reports whether a piece that was refused for lack of memory can be cut: only if none of it is in the table.
// The server may have run out of memory after the insert or during it, or may still be running an attempt that it did
// not answer, and smaller pieces have other tokens.
func (r *runner) mayCut(work context.Context, b *batch, piece seqRange) bool {
	if piece.count() <= memoryRecordsMin || r.now().Before(r.unsure) {
		return false
	}
	first, end := b.rows(piece)
	if lacking, known := r.lacking(work, b, piece); !known || lacking < end-first {
		return false // repeat it whole: the token deduplicates it
	}
	r.memory = memoryLimit{records: piece.count() / 2}
	return true
}

// lacking counts the records of a refused piece that have no rows; known is false if ClickHouse cannot be asked.
func (r *runner) lacking(work context.Context, b *batch, piece seqRange) (count int, known bool) {
	first, end := b.rows(piece)
	lacking, err := r.filler.Lacking(work, r.entries(b, first, end))
	if err != nil {
		r.logOnce(slog.LevelWarn, "cannot find out which rows of a refused batch are in ClickHouse; retrying the whole batch", err)
	}
	return len(lacking), err == nil
}

// tookWithinMemory raises the limit after enough successful pieces.
func (r *runner) tookWithinMemory() {
	if r.memory.records == 0 {
		return
	}
	if r.memory.taken++; r.memory.taken < memoryTriesLarger {
		return
	}
	r.memory = memoryLimit{records: r.memory.records * 2}
	if r.memory.records > uint64(r.limits.rows) {
		r.memory = memoryLimit{}
	}
}

// budget is the memory that the batches of all partitions share.
type budget struct {
	most int64 // bytes

	mu      sync.Mutex
	free    int64
	changed chan struct{} // closed, and replaced, at each release
}

func newBudget(bytes int64) *budget {
	return &budget{most: bytes, free: bytes, changed: make(chan struct{})}
}

// take reserves n bytes if they are free. If not, it returns a channel that is closed at the next release.
func (b *budget) take(n int64) (ok bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false, b.changed
	}
	b.free -= n
	return true, nil
}

// force reserves n bytes even if they are not free.
func (b *budget) force(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free -= n
}

// release returns n bytes.
func (b *budget) release(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	close(b.changed)
	b.changed = make(chan struct{})
}

// taken returns the number of reserved bytes.
func (b *budget) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most - b.free
}
