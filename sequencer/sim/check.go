package sim

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// checker holds what happens against what may.
type checker struct {
	checkpoints, powerLosses, recoveries int
	newest                               uint32          // checksum of the newest checkpoint
	hopeless                             bool            // the run has damaged all that is kept at one time
	refused                              bool            // a fresh owner could not recover, with good reason
	answeredSeqs                         map[uint64]bool // if set, notes the records that are answered
}

// causes count what may make a partition stop; an error must have one.
type causes struct {
	losses int    // of the message log
	epoch  uint64 // leases given out
	moves  uint64 // of the checkpoint pointer
	first  uint64 // of the write-ahead log
}

func (w *world) causes() causes {
	return causes{losses: w.log.losses, epoch: w.lease.revision, moves: w.store.revision, first: w.wal.first}
}

// answered holds an answer against the reference's, and returns the record's
// sequence.
func (c *checker) answered(w *world, o *owner, inbox string, data []byte) uint64 {
	seq, known := w.client.inboxes[inbox]
	if !known {
		w.fail("owner %d answered on %q, on which no client waits", o.id, inbox)
	}
	var batch message.AnswerBatch
	if err := batch.UnmarshalVT(data); err != nil {
		w.fail("owner %d's answer to record %d cannot be read: %v", o.id, seq, err)
	}
	want := w.ref.records[seq-1]
	if want.malformed {
		w.fail("owner %d answered record %d, which is malformed", o.id, seq)
	}
	if len(batch.GetAnswers()) != len(want.answers) {
		w.fail("owner %d gave %d answers to record %d of %d sends", o.id, len(batch.GetAnswers()), seq, len(want.answers))
	}
	for i, got := range batch.GetAnswers() {
		if !got.EqualVT(&want.answers[i]) {
			w.fail("owner %d answered send %d of record %d with %v, the reference says %v", o.id, i, seq, got, &want.answers[i])
		}
	}
	if c.answeredSeqs != nil {
		c.answeredSeqs[seq] = true
	}
	return seq
}

// live holds a live message against the reference's.
func (c *checker) live(w *world, subject string, data []byte) {
	var m message.Message
	if err := m.UnmarshalVT(data); err != nil {
		w.fail("a live message on %s cannot be read: %v", subject, err)
	}
	if m.GetWalSeq() == 0 || m.GetWalSeq() > w.wal.last() {
		w.fail("a live message is of record %d", m.GetWalSeq())
	}
	want, ok := w.ref.records[m.GetWalSeq()-1].live[int(m.GetWalIndex())]
	if !ok {
		w.fail("send %d of record %d was published live, and is to be stored", m.GetWalIndex(), m.GetWalSeq())
	}
	if want.subject != subject || !bytes.Equal(want.data, data) {
		w.fail("live message of send %d of record %d differs from the reference's: %x, wanted %x", m.GetWalIndex(), m.GetWalSeq(), data, want.data)
	}
}

// stored holds a record that the message log has taken against the reference's.
func (c *checker) stored(w *world, seq uint64, m *runner.Derived) {
	if seq > uint64(len(w.ref.records)) {
		w.fail("record %d was stored, and the write-ahead log has only %d", seq, len(w.ref.records))
	}
	if want := w.ref.records[seq-1]; !bytes.Equal(want.batch, m.Data) {
		w.fail("record %d was stored with other content than the reference's: % x, wanted % x", seq, m.Data, want.batch)
	}
}

// recoverable asserts that a fresh owner could recover if the power failed now.
// Damage done on purpose is no fault of the sequencers'.
func (c *checker) recoverable(w *world, after string) {
	if c.hopeless || w.usable(w.durable(), asWritten) {
		return
	}
	var kept []string
	for _, m := range w.store.metas {
		kept = append(kept, fmt.Sprintf("%s of record %d, message %d, whole %t", m.Object, m.WALSeq, m.PartitionSeq, w.store.whole(m)))
	}
	w.fail("%s: if the power failed now, the message log could end at %d, and nothing joins it to the write-ahead log, which starts at %d; checkpoints: %s",
		after, w.durable(), w.wal.first, strings.Join(kept, "; "))
}

// moved notes that the checkpoint pointer was moved: to a checkpoint that is whole,
// or by a recovery, which changes nothing but its version.
func (c *checker) moved(w *world, o *owner) {
	metas := w.store.metas
	if len(metas) > 0 && metas[0].CRC32C != c.newest {
		c.newest = metas[0].CRC32C
		c.checkpoints++
		w.event("owner %d stores checkpoint %s of record %d, message %d", o.id, metas[0].Object, metas[0].WALSeq, metas[0].PartitionSeq)
		if !w.store.whole(metas[0]) {
			w.fail("the pointer was moved to %s, which is not whole", metas[0].Object)
		}
	}
	c.recoverable(w, "the pointer was moved")
}

// How a checkpoint that the run has damaged on purpose counts.
const (
	asFound   = false
	asWritten = true
)

// usable reports whether there is a state to recover from for a message log that
// ends at tail.
func (w *world) usable(tail uint64, spoiledCounts bool) bool {
	if w.wal.first == 1 {
		return true
	}
	for _, m := range w.store.metas {
		if m.WALSeq > w.wal.last() || m.WALSeq+1 < w.wal.first || m.WALSeq > tail {
			continue
		}
		if w.store.whole(m) || (spoiledCounts && w.store.spoiled(m)) {
			return true
		}
	}
	return false
}

// explained asserts that there was a reason for which a partition's run ended.
func (c *checker) explained(w *world, o *owner, err error) {
	seen, now := o.part.seen, w.causes()
	switch {
	case w.healed && !errors.Is(err, runner.ErrMissing):
		w.fail("owner %d failed in a world without trouble: %v", o.id, err)
	case errors.Is(err, runner.ErrInvariant):
		w.fail("owner %d: %v", o.id, err)
	case errors.Is(err, runner.ErrMissing):
		if w.usable(w.log.whole(), asFound) && seen == now {
			w.fail("owner %d refuses though it could recover: %v", o.id, err)
		}
		if !c.hopeless && !w.usable(w.log.whole(), asWritten) {
			w.fail("owner %d cannot recover: %v", o.id, err)
		}
		c.refused = w.healed
	}
}

// acknowledged asserts that an owner takes for stored only what the message log
// has, unless that was lost since the owner recovered.
func (c *checker) acknowledged(w *world, o *owner) {
	p := o.part
	if p == nil || !p.recovered || p.seen.losses != w.log.losses {
		return
	}
	if acked := p.Progress().Emitted; acked > w.log.last() {
		w.fail("owner %d takes record %d for stored, and the message log ends at %d", o.id, acked, w.log.last())
	}
}

// end asserts, of a world at rest, that everything is in the message log, once.
func (c *checker) end(w *world) {
	if got, want := w.log.last(), uint64(len(w.ref.records)); got != want {
		w.fail("at rest the message log ends at %d, the reference makes %d", got, want)
	}
	seqs := make(map[refChannel]uint64)
	lastID, place := uint64(0), uint64(0)
	for i := range w.log.kept {
		seq := w.log.first + uint64(i)
		if w.log.kept[i].lost {
			w.fail("at rest the message log ends at %d, and record %d is missing", w.log.last(), seq)
		}
		r := w.log.kept[i].record
		c.stored(w, seq, &r)
		var batch message.MessageBatch
		if err := batch.UnmarshalVT(r.Data); err != nil {
			w.fail("record %d cannot be read: %v", seq, err)
		}
		if place > 0 && batch.GetFirst() != place {
			w.fail("record %d begins with message %d, wanted %d", seq, batch.GetFirst(), place)
		}
		place = batch.GetFirst()
		for _, m := range batch.GetMessages() {
			if m.GetMessageId() <= lastID || m.GetMessageId() > batch.GetNewestId() {
				w.fail("message %d has ID %d, the one before it %d, and the newest is %d", place, m.GetMessageId(), lastID, batch.GetNewestId())
			}
			if m.GetWalSeq() != seq {
				w.fail("message %d is of record %d, and is in record %d", place, m.GetWalSeq(), seq)
			}
			lastID = m.GetMessageId()
			channel := refChannel{m.GetChannelType(), m.GetChannelId()}
			before, known := seqs[channel]
			if m.GetMessageSeq() != before+1 && (known || w.log.first == 1) {
				w.fail("message %d has sequence %d in its channel, after %d", place, m.GetMessageSeq(), before)
			}
			seqs[channel] = m.GetMessageSeq()
			place++
		}
	}
}
