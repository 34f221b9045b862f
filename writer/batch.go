package writer

import (
	"encoding/binary"
	"sort"
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
