package ingest

import "time"

// A group commit costs much the same whatever it holds, and the clients whose sends are durable but not answered cannot send
// more yet. So where the way is free and little has gathered, the next commit is held back: until it holds as many sends as
// are under way, or a commit is answered, or the time is up, since there may be nobody to answer.
const (
	// holdUnansweredMin: with fewer sends under way there is little to gather, and nobody is kept waiting for it.
	holdUnansweredMin = 8
	// holdMax bounds the wait. An answer follows its acknowledgement within a millisecond or two.
	holdMax = 2 * time.Millisecond
)

// hold says whether the next commit is held back, now that the way is free, and sees to it that it goes in time. Under the
// lock.
func (p *partition) hold() bool {
	if p.unended < holdUnansweredMin || p.enough() {
		return false
	}
	p.held = true
	p.holdTimer.Reset(p.holdMax)
	return true
}

// enough says whether as many sends are gathered as are under way, or as many as one commit takes. Under the lock.
func (p *partition) enough() bool {
	return p.sends >= p.unended || len(p.queue) > 1 || p.sends >= batchSendsMax
}

// mayLeave says whether the way is free and what has gathered need not wait. Under the lock.
func (p *partition) mayLeave() bool { return p.inFlight == nil && (!p.held || p.enough()) }

// onHoldTimer lets go what has been held back for as long as may be.
func (p *partition) onHoldTimer() {
	p.mu.Lock()
	next := p.letGo()
	p.mu.Unlock()
	p.publish(next)
}

// letGo takes the next commit if it was held back. Under the lock.
func (p *partition) letGo() (next *batch) {
	if !p.held {
		return nil
	}
	return p.takeNext()
}
