package writer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// askTimeout limits a query for the rows of a range.
const askTimeout = time.Minute

// errMayStillCome reports that the table has a part of a range and that an earlier insert may still add the rest.
var errMayStillCome = errors.New("the table has a part of the range, and an earlier insert may still add the rest: waiting until it has ended")

// doubt records that rows of a range may be in the table, or may still arrive.
func (r *runner) doubt(piece seqRange) {
	if r.doubtful != nil {
		piece = seqRange{First: min(piece.First, r.doubtful.First), Last: max(piece.Last, r.doubtful.Last)}
	}
	r.doubtful = &piece
}

// entries returns the messages of rows of a batch.
func (r *runner) entries(b *batch, first, end int) []messagelog.Entry {
	out := make([]messagelog.Entry, 0, end-first)
	for row := first; row < end; row++ {
		seq := b.block.PartitionSeq(row)
		out = append(out, messagelog.Entry{Partition: r.partition, PartitionSeq: seq, Data: b.record(seq)})
	}
	return out
}

// bringIn inserts rows of a batch; of a doubtful range only those that the table lacks. See runner.
func (r *runner) bringIn(work context.Context, b *batch, first, end int) error {
	if d := r.doubtful; !r.asks || d == nil || b.block.PartitionSeq(first) > d.Last || b.block.PartitionSeq(end-1) < d.First {
		return r.insertWhole(work, b, first, end)
	}
	work, cancel := context.WithTimeout(work, askTimeout)
	defer cancel()
	all := r.entries(b, first, end)
	lacking, err := r.filler.Lacking(work, all)
	if err != nil {
		return err
	}
	log := r.log.With("first", all[0].PartitionSeq, "last", all[len(all)-1].PartitionSeq, "rows", len(all), "lacking", len(lacking))
	if len(lacking) == 0 {
		log.Info("the table has all rows of a range whose insert was interrupted")
		return nil
	}
	if len(lacking) == len(all) {
		if err := r.insertWhole(work, b, first, end); err != nil {
			return err
		}
		if lacking, err = r.filler.Lacking(work, all); err == nil {
			lacking, err = r.filler.unexpired(lacking)
		}
		if err != nil || len(lacking) == 0 {
			return err
		}
		log.Error("ClickHouse remembers the token of rows that it has lost; inserting them under a new token", "token", r.position.Pending.Token)
	} else if left := r.unsure.Sub(r.now()); left > 0 {
		return fmt.Errorf("%w (%s left): %d of %d rows are missing", errMayStillCome, left.Round(time.Second), len(lacking), len(all))
	}
	_, err = r.filler.Fill(work, lacking)
	return r.notAnswered(err)
}

func (r *runner) insertWhole(work context.Context, b *batch, first, end int) error {
	return r.notAnswered(r.store.Insert(work, &b.block, first, end, r.position.Pending.Token))
}

// notAnswered records that an insert without an answer may still add its rows.
func (r *runner) notAnswered(err error) error {
	if err != nil && clickhouse.ClassOf(err) == clickhouse.Ambiguous {
		r.unsure = r.now().Add(r.timing.unsure)
	}
	return err
}
