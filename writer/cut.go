package writer

import (
	"context"
	"log/slog"
	"time"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

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
