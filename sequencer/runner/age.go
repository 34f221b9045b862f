package runner

import "time"

// walAges reckons how old the oldest record is that is not folded, from looks at the write-ahead log's end: a record
// came between two looks, and is taken to have come at the second. The broker knows it exactly, but would have to be asked
// for the record.
type walAges struct {
	looks []walLook // by time; those whose records are all folded are gone
}

// walLook says where the log ended at a time.
type walLook struct {
	at   time.Time
	last uint64
}

// looksMax bounds what is kept. Beyond it the newest look is replaced, so that the oldest, which counts, stays.
const looksMax = 1024

// oldest is told the log's end and how far it is folded, and gives the age of the first record behind that; 0 where there is none.
func (w *walAges) oldest(now time.Time, folded, last uint64) time.Duration {
	done := 0
	for done < len(w.looks) && w.looks[done].last <= folded {
		done++
	}
	w.looks = w.looks[done:]
	if last <= folded {
		return 0
	}
	switch n := len(w.looks); {
	case n > 0 && w.looks[n-1].last == last: // nothing new
	case n < looksMax:
		w.looks = append(w.looks, walLook{at: now, last: last})
	default:
		w.looks[n-1] = walLook{at: now, last: last}
	}
	return now.Sub(w.looks[0].at)
}
