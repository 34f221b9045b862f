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
	// recordOverheadBytes is what a record takes in memory besides its own bytes: some 200 for its columns,
	// its digest and its place, and what the allocator rounds up.
	recordOverheadBytes = 256
	// A batch keeps its slices for the next one. After a time of large batches they are let go when so many
	// in a row have used less than an eighth of them.
	smallBatchesMax   = 64
	recordsKeptAlways = 8192
)

// batch is a run of messages of the message log without a gap, decoded into columns. Its records are encoded messages. It is made once per
// partition and side of the pipeline, and filled again and again.
type batch struct {
	block   clickhouse.Block
	first   uint64   // partition_seq of the first
	records [][]byte // as they are in the log, by partition_seq - first
	digests []uint64 // of the records
	bad     []badRecord
	samples tracing.Samples // of the records, by partition_seq

	due      time.Time // when it is to be inserted at the latest
	closed   bool      // it takes no more records
	memory   int64     // bytes that its records take
	reserved int64     // bytes taken from the budget
	small    int       // batches in a row that have used little of the slices
}

// badRecord is a record that cannot become a row.
type badRecord struct {
	seq    uint64
	reason string // of the dead letter: one of a few words
	err    error
	token  string // of the insert that was refused, if it came to one
}

func (b *batch) empty() bool { return len(b.records) == 0 }

// span is the range of the batch, which must not be empty.
func (b *batch) span() seqRange {
	return seqRange{First: b.first, Last: b.first + uint64(len(b.records)) - 1}
}

// add takes the record that follows the last one.
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

// rows is where the rows of a range are in the block. Bad records have none.
func (b *batch) rows(r seqRange) (first, end int) {
	at := func(seq uint64) int {
		return sort.Search(b.block.Rows(), func(i int) bool { return b.block.PartitionSeq(i) >= seq })
	}
	return at(r.First), at(r.Last + 1)
}

// badIn lists the bad records of a range.
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

// digestAt is the digest of one record.
func (b *batch) digestAt(seq uint64) uint64 { return b.digests[seq-b.first] }

// digest is that of all records of a range: the digest of their digests.
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
