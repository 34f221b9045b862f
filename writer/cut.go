package writer

import (
	"context"
	"log/slog"
	"time"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// memoryRecordsMin: a piece of so few records is not cut for want of memory. The server has none at all
	// then, and many small parts would only make it worse.
	memoryRecordsMin = 1000
	// memoryTriesLarger: after so many pieces that went in, twice as large ones are tried again.
	memoryTriesLarger = 16
)

// cut cuts a refused piece of more than one record, in two as a rule:
//
//   - Where ClickHouse names the row that it refuses, that row comes by itself, between what is before and
//     what is behind it. Should it be another one, it goes in, and nothing is worse for it.
//   - One that is refused for its size is cut where a month ends, if one does in it: the table is partitioned by
//     the month, so there are no more parts than there had to be.
//   - All else is halved.
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

// around cuts out a sequence.
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

// memoryLimit keeps batches at a size for which ClickHouse has had memory.
type memoryLimit struct {
	records uint64 // of a piece at the most; 0 where there is no limit
	taken   int    // pieces of that size that went in since it was set
}

// withinMemory cuts from a piece what can go in by itself. A range that is pending is cut only where it was
// refused: its token stands for the whole.
func (r *runner) withinMemory(piece seqRange) (head seqRange, tail *seqRange) {
	most := r.memory.records
	if most == 0 || piece.count() <= most || (r.position.Pending != nil && r.position.Pending.seqRange == piece) {
		return piece, nil
	}
	return seqRange{First: piece.First, Last: piece.First + most - 1}, &seqRange{First: piece.First + most, Last: piece.Last}
}

// mayCut decides whether a piece that was refused for want of memory can be cut: only if nothing of it is in.
// The server can have run out of memory behind the insert, or in the middle of it, or be at work still on an attempt
// that it did not answer, and parts of the piece have other tokens.
func (r *runner) mayCut(work context.Context, b *batch, piece seqRange) bool {
	if piece.count() <= memoryRecordsMin || r.now().Before(r.unsure) {
		return false
	}
	first, end := b.rows(piece)
	if lacking, known := r.lacking(work, b, piece); !known || lacking < end-first {
		return false // the same again: the token makes it whole
	}
	r.memory = memoryLimit{records: piece.count() / 2}
	return true
}

// lacking counts the records of a refused piece that have no rows; it is not known if ClickHouse does not say.
func (r *runner) lacking(work context.Context, b *batch, piece seqRange) (count int, known bool) {
	first, end := b.rows(piece)
	lacking, err := r.filler.Lacking(work, r.entries(b, first, end))
	if err != nil {
		r.logOnce(slog.LevelWarn, "ClickHouse does not say whether it has rows of a batch, trying it again whole", err)
	}
	return len(lacking), err == nil
}

// tookWithinMemory lets the pieces grow again after a while.
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
