package sim

import "time"

// leaseKey is the partition's key in the lease bucket, with the rules of package
// lease: made where there is none, moved by compare-and-swap, gone after the time
// to live.
type leaseKey struct {
	revision uint64 // the last that was given out
	holder   int    // valid while now < expires
	current  uint64 // the key's revision
	expires  time.Duration
}

// marginPart as in package lease: a holder stops this part of the time to live
// before the key can have expired.
const marginPart = 8

// renewalsPerTTL as in package lease.
const renewalsPerTTL = 4

// held is an owner's view of its lease.
type held struct {
	epoch    uint64
	revision uint64
	deadline time.Duration
	renewed  time.Duration
}

// acquire takes the lease where it is free.
func (o *owner) acquire() {
	w := o.w
	before := w.now
	w.point(o, "take the lease")
	if !w.brokerUp() || w.now < w.lease.expires || w.troubled() {
		return
	}
	w.lease.revision++
	w.lease.holder, w.lease.current, w.lease.expires = o.id, w.lease.revision, w.now+w.plan.leaseTTL
	o.lease = &held{epoch: w.lease.revision, revision: w.lease.revision, renewed: before, deadline: before + w.plan.leaseTTL - w.plan.leaseTTL/marginPart}
	w.event("owner %d takes the lease, epoch %d", o.id, o.lease.epoch)
}

// renew says false where the lease is another's.
func (o *owner) renew() bool {
	w := o.w
	before := w.now
	w.point(o, "renew the lease")
	if !w.brokerUp() || w.troubled() {
		return true
	}
	if w.now >= w.lease.expires || w.lease.current != o.lease.revision {
		return false
	}
	w.lease.revision++
	w.lease.current, w.lease.expires = w.lease.revision, w.now+w.plan.leaseTTL
	o.lease.revision, o.lease.renewed = w.lease.current, before
	o.lease.deadline = before + w.plan.leaseTTL - w.plan.leaseTTL/marginPart
	return true
}

// release gives the lease back.
func (o *owner) release() {
	w := o.w
	if w.brokerUp() && w.now < w.lease.expires && w.lease.current == o.lease.revision {
		w.lease.revision++
		w.lease.expires = w.now
	}
}

// mayWrite is Lease.Good. An owner whose clock does not go on while it should is
// wrong about it.
func (o *owner) mayWrite() bool {
	return o.lease != nil && (o.w.now < o.lease.deadline || o.w.now < o.blindUntil)
}
