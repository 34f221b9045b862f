package writer

import (
	"fmt"
	"time"
)

// streamState is the state of a partition's message log.
type streamState struct {
	created     time.Time
	first, last uint64 // partition_seqs; first is last+1 if the log is empty
	gone        bool   // all records are gone, and their partition_seqs are unknown
}

// plan is what must happen before a partition is read.
type plan struct {
	// behind: the stream ends before what was read from it. It lost its tail, which is being derived again: wait.
	behind bool
	// recreated: the position belongs to an earlier stream.
	recreated bool
	// verify: the stream still has the record at the position, so compare it.
	verify bool
	// missing is the range that disappeared from the stream before it was read, nil if there is none.
	missing *seqRange
}

// reconcile compares a position with its stream. It relies on nothing but the two, and never moves the position back:
//
//   - A stream that ends before what was read from it has lost its tail (on one server it is written without fsync).
//     The sequencer derives the same records again, so the position stays valid.
//   - A recreated stream is derived from the same write-ahead log, and the partition_seq of a message is a function of
//     that log, so the position stays valid too, if the message at the position proves to be the same. The creation time
//     matters only for the tokens of later batches.
//   - Unread records before the stream's first are lost.
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
		return out // the next message will show what is lost
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

// contentError reports that the stream holds other records than before. Nothing is inserted then: a person must find out
// which ones are right.
type contentError struct {
	what       string
	have, want uint64
}

func (e *contentError) Error() string {
	return fmt.Sprintf("the content of the message log has changed: %s has digest %016x, but %016x is recorded", e.what, e.have, e.want)
}
