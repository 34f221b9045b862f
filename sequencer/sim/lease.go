package sim

import "time"

// leaseKey is the partition's key in the lease bucket, with the rules of package
// lease: made if there is none, moved by compare-and-swap, and taken by an observer
// whose own clock has seen it unchanged for the time to live. No time of the broker's
// takes part.
type leaseKey struct {
	revision uint64    // the last that was given out
	holder   int       // the process that wrote it
	current  uint64    // the key's revision; 0: there is no key
	written  time.Time // by the broker's clock; for a deliberate bug
}

// marginPart as in package lease: a holder stops this part of the time to live
// before an observer may take its key.
const marginPart = 8

// renewalsPerTTL as in package lease.
const renewalsPerTTL = 4

// clockRateMost is how much faster or slower than true time an owner's monotonic clock may run; two of them
// differ by less than marginPart allows.
const clockRateMost = 0.05

// held is an owner's view of its lease.
type held struct {
	epoch    uint64
	revision uint64
	deadline time.Duration // by the owner's clock
	renewed  time.Duration
}

// sighting is when an owner first saw a revision of the key, by its own clock.
type sighting struct {
	revision uint64
	at       time.Duration
}

// clock is the owner's monotonic clock.
func (o *owner) clock() time.Duration { return time.Duration(float64(o.w.now) * o.clockRate) }

// acquire takes the lease if there is none, if it is this process's own, or if it has not been renewed for
// the time to live since it was first seen.
func (o *owner) acquire() {
	w := o.w
	w.point(o, "look at the lease")
	if !w.brokerUp() || w.troubled() {
		return
	}
	if o.seen.revision != w.lease.current {
		o.seen = sighting{revision: w.lease.current, at: o.clock()}
	}
	dead := o.clock()-o.seen.at >= w.plan.leaseTTL
	if w.bug.leaseByBroker {
		dead = w.brokerTime().Sub(w.lease.written) >= w.plan.leaseTTL
	}
	if w.lease.current != 0 && w.lease.holder != o.process && !dead {
		return
	}
	before := o.clock()
	w.point(o, "take the lease")
	if !w.brokerUp() || w.troubled() || w.lease.current != o.seen.revision {
		return
	}
	w.check.heldOnce(w, o)
	w.lease.move(w, o)
	o.lease = &held{epoch: w.lease.revision, revision: w.lease.revision, renewed: w.now, deadline: before + w.plan.leaseTTL - w.plan.leaseTTL/marginPart}
	w.event("owner %d takes the lease, epoch %d", o.id, o.lease.epoch)
}

// move assigns the key a new revision.
func (k *leaseKey) move(w *world, o *owner) {
	k.revision++
	k.holder, k.current, k.written = o.process, k.revision, w.brokerTime()
}

// heldOnce fails the run if another owner may still use the lease that one is about to take.
func (c *checker) heldOnce(w *world, taker *owner) {
	for _, o := range w.owners {
		if o != taker && o.lease != nil && o.clock() < o.lease.deadline {
			w.fail("owner %d takes the lease while owner %d may use it until %s of its clock, which shows %s", taker.id, o.id, o.lease.deadline, o.clock())
		}
	}
}

// renew returns false if the lease is another's.
func (o *owner) renew() bool {
	w := o.w
	before := o.clock()
	w.point(o, "renew the lease")
	if !w.brokerUp() || w.troubled() {
		return true
	}
	if w.lease.current != o.lease.revision {
		return false
	}
	w.lease.move(w, o)
	o.lease.revision, o.lease.renewed = w.lease.current, w.now
	o.lease.deadline = before + w.plan.leaseTTL - w.plan.leaseTTL/marginPart
	return true
}

// release releases the lease.
func (o *owner) release() {
	w := o.w
	if w.brokerUp() && w.lease.current == o.lease.revision {
		w.lease.revision++
		w.lease.current = 0
		o.lease.deadline = 0 // it stops using it first
	}
}

// mayWrite is Lease.Good. An owner whose clock stands still while it should not is
// wrong about it.
func (o *owner) mayWrite() bool {
	return o.lease != nil && (o.clock() < o.lease.deadline || o.w.now < o.blindUntil)
}
