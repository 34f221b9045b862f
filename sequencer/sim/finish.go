package sim

import (
	"time"

	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// quietStepsMax is the number of steps in which a single owner in a world without
// trouble must come to rest, and quietRecordSteps what it may take besides for each
// record of the write-ahead log: with a small outbox it brings few of them a step.
const (
	quietStepsMax    = 5_000
	quietRecordSteps = 2
)

// finish ends the trouble and lets one fresh owner come to rest; then everything
// that was made must be there, and once only. A second one then recovers from the
// first one's checkpoint and is asked again what was asked before.
func (w *world) finish() {
	w.heal()
	if !w.settle() {
		return
	}
	w.check.end(w)
	w.anotherCheckpoint()
	w.plan.walRecords = 1 << 30
	w.restart()
	if !w.settle() {
		w.fail("an owner refuses right after a checkpoint")
	}
	w.probe()
	w.check.end(w)
}

// heal ends all trouble, but for one last power loss now and then, and kills
// every owner.
func (w *world) heal() {
	w.event("all is healed")
	if w.chance(0.5) {
		w.crashLog()
	}
	w.healed = true
	w.broker.downUntil, w.broker.outputUntil = w.now, w.now
	w.restart()
	w.passTime(time.Minute) // what is on its way arrives
}

// restart leaves one owner, newly started.
func (w *world) restart() {
	for _, o := range w.owners {
		o.die()
		o.clockOff = 0
	}
	w.owners = w.owners[:1]
	w.owners[0].downUntil = w.now
}

// settle lets the owner work until it has nothing more to do. It says false where
// it refuses to start, as it must where the run has destroyed the checkpoints.
func (w *world) settle() bool {
	o := w.owners[0]
	for range quietStepsMax + quietRecordSteps*w.wal.last() {
		w.step++
		w.passTime(w.upTo(100 * time.Millisecond))
		o.act()
		if w.check.refused {
			return false
		}
		if o.part != nil && o.part.Progress() == w.complete() {
			return true
		}
	}
	w.fail("in a world without trouble the owner did not come to rest; wanted %+v", w.complete())
	return false
}

// complete is how far an owner is that has nothing more to do.
func (w *world) complete() runner.Progress {
	return runner.Progress{WALSeq: w.wal.last(), Emitted: w.wal.last()}
}

// anotherCheckpoint writes one more record, once the write-ahead log takes it,
// and waits for a checkpoint of it.
func (w *world) anotherCheckpoint() {
	before := w.wal.last()
	w.quietly("the write-ahead log stays full", func() bool {
		if w.wal.last() == before {
			w.client.publish(w, []*clientSend{w.client.draw(w)})
		}
		return w.wal.last() > before
	})
	w.quietly("no checkpoint is stored", func() bool {
		metas := w.store.metas
		return len(metas) > 0 && metas[0].WALSeq == w.wal.last()
	})
}

// quietly lets the owner work until something is reached, as it must be.
func (w *world) quietly(otherwise string, reached func() bool) {
	for range quietStepsMax {
		if reached() {
			return
		}
		w.step++
		w.passTime(w.upTo(time.Second))
		w.owners[0].act()
	}
	w.fail("in a world without trouble %s", otherwise)
}

// probed is how many of the last sends are asked for once more.
const probed = 80

// probe sends again what was sent before and sees to it that each is answered.
func (w *world) probe() {
	c := &w.client
	w.check.answeredSeqs = make(map[uint64]bool)
	first := w.wal.last() + 1
	sends := c.sends[max(0, len(c.sends)-probed):]
	for len(sends) > 0 {
		n := min(w.plan.batchMax, len(sends))
		c.publish(w, sends[:n])
		sends = sends[n:]
	}
	w.settle()
	for seq := first; seq <= w.wal.last(); seq++ {
		if w.wal.records[seq-1].ReplyTo != "" && !w.check.answeredSeqs[seq] {
			w.fail("record %d was not answered in a world without trouble", seq)
		}
	}
}
