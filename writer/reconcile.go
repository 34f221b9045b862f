package writer

import (
	"fmt"
	"time"
)

// streamState is what there is to know of the message log of a partition.
type streamState struct {
	created     time.Time
	first, last uint64 // places; first is last+1 when there is nothing
	gone        bool   // there were records, and none is left: which places they had is not known
}

// plan is what is to be done before a partition is read on.
type plan struct {
	// behind: the stream ends before what was read of it. Its tail was lost and is being derived again: wait.
	behind bool
	// recreated: the stream is not the one that the position is of.
	recreated bool
	// verify: the record at the position is still there, so that it can be compared.
	verify bool
	// missing is what is gone from the stream before it was read, nil if nothing is.
	missing *seqRange
}

// reconcile compares a position with the stream that it is of. It decides nothing that cannot be seen from
// the two, and it never goes back to the start:
//
//   - A stream that ends before what was read of it has lost its tail (it is written without fsync on one
//     server). The sequencer derives the same records again, so the position stays good.
//   - A stream made anew is derived from the same write-ahead log, and a record's place is a function of
//     that log, so the position stays good too, if the record at the position proves to be the same. The
//     creation time matters only for the tokens of batches to come.
//   - Records before the stream's first that were not read are lost.
func reconcile(p position, s streamState) plan {
	var out plan
	if p.revision != 0 && !p.StreamCreated.Equal(s.created) {
		out.recreated = true
	}
	known := p.Done
	if p.Pending != nil {
		known = p.Pending.Last
	}
	if s.gone {
		return out // what is lost is known when the log goes on
	}
	if s.last < known {
		out.behind = true
		return out
	}
	if p.Done > 0 && p.DoneDigest != 0 && s.first <= p.Done {
		out.verify = true
	}
	if s.first > p.Done+1 {
		out.missing = &seqRange{First: p.Done + 1, Last: s.first - 1}
	}
	return out
}

// contentError says that the stream holds other records than it held before. Nothing is inserted then: a
// person must find out which ones are right.
type contentError struct {
	what       string
	have, want uint64
}

func (e *contentError) Error() string {
	return fmt.Sprintf("the message log holds other content than before: %s has digest %016x, recorded is %016x", e.what, e.have, e.want)
}
